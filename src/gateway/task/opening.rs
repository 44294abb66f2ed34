//! Opens the state folder and its store, and says what was found there.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use tracing::{info, warn};

use crate::broker::FIRST_SESSION_DEST;
use crate::clock::Now;
use crate::config::plan::Plan;
use crate::mapping::publish::Boot;
use crate::store::{self, DestId, Destination, Note, Opened};

/// Keeps a second gateway out of the folder. A folder that cannot be written is no reason not to run.
pub(super) fn lock_state(folder: &Path) -> anyhow::Result<Option<File>> {
    let lock = std::fs::create_dir_all(folder).and_then(|()| File::create(folder.join("lock")));
    let lock = match lock {
        Ok(lock) => lock,
        Err(failure) => {
            warn!(folder = %folder.display(), %failure, "the state folder cannot be written");
            return Ok(None);
        }
    };
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => {
            bail!("another gateway uses {}: end it, or give this one another gateway.state_dir", folder.display())
        }
        Err(TryLockError::Error(failure)) => {
            warn!(folder = %folder.display(), %failure, "the state folder cannot be locked");
            Ok(None)
        }
    }
}

pub(super) fn open_store(plan: &Plan, boot: &Boot, now: Now) -> anyhow::Result<Opened> {
    let folder = &plan.gateway.state_dir;
    let opened = store::open(folder, boot.id().clone(), now)
        .with_context(|| format!("cannot open the store in {}", folder.display()))?;
    for note in &opened.notes {
        match note {
            Note::Fresh => info!(folder = %folder.display(), "a new store"),
            Note::Continued => info!(folder = %folder.display(), "the store of the run before"),
            Note::SetAside { name, cause } => {
                warn!(folder = %folder.display(), %name, %cause, "the store was corrupt: it was set aside, and a new one begun");
            }
            Note::NotWritable { reason } => {
                warn!(folder = %folder.display(), %reason, "the store cannot be written: everything waits in memory until it can");
            }
        }
    }
    Ok(opened)
}

/// The queues of uplinks that earlier runs left, by the uplinks' names.
pub(super) fn uplink_queues(destinations: &[Destination]) -> BTreeMap<Arc<str>, DestId> {
    let named = |destination: &Destination| {
        let name = destination.name.strip_prefix("uplink/")?;
        Some((name.into(), destination.dest))
    };
    destinations.iter().filter_map(named).collect()
}

/// Uplinks' numbers stand below those of sessions.
pub(super) fn uplink_dest_after(destinations: &[Destination], next_dest: u32) -> u32 {
    let taken = destinations.iter().map(|destination| destination.dest.0).filter(|dest| *dest < FIRST_SESSION_DEST);
    taken.max().map_or(1, |highest| highest + 1).max(if next_dest < FIRST_SESSION_DEST { next_dest } else { 1 })
}

/// Six letters and digits: enough that no two starts of one gateway share them.
pub(super) fn boot_id() -> String {
    std::iter::repeat_with(fastrand::alphanumeric).map(|c| c.to_ascii_lowercase()).take(6).collect()
}
