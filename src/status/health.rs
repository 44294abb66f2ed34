//! Whether the gateway itself works. A device or a line that is down is not its fault, and no reason to restart it.

use crate::status::snapshot::Snapshot;

/// Why it is not well; empty where it is.
pub fn complaints(snapshot: &Snapshot) -> Vec<String> {
    let mut reasons = Vec::new();
    if !snapshot.ready {
        reasons.push("not ready: it is still starting".to_owned());
    }
    if let Some(store) = snapshot.store.as_ref().filter(|store| !store.writable) {
        let why = store.last_error.as_deref().unwrap_or("no reason was given");
        reasons.push(format!("the store cannot be written: {why}"));
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::snapshot::tests::snapshot;

    #[test]
    fn a_store_that_cannot_be_written_and_an_unfinished_start_are_complaints_and_a_dead_uplink_is_none() {
        let mut snapshot = snapshot();
        assert!(complaints(&snapshot).is_empty());
        snapshot.ready = false;
        if let Some(store) = &mut snapshot.store {
            store.writable = false;
            store.last_error = Some("disk full".into());
        }
        assert_eq!(complaints(&snapshot).len(), 2);
        assert!(complaints(&snapshot)[1].contains("disk full"));
    }
}
