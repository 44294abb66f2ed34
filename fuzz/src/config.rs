//! A gateway file and a mapping file, with a byte 0xFF between them.

use super::mapping::Memory;

pub fn run(data: &[u8]) {
    let at = data.iter().position(|byte| *byte == 0xFF).unwrap_or(data.len());
    let outcome = Memory { gateway: &data[..at], mapping: data.get(at + 1..).unwrap_or_default() }.compile();
    assert_eq!(outcome.plan.is_none(), outcome.diagnostics.iter().any(|found| found.is_error()));
    for found in &outcome.diagnostics {
        assert!(found.place.line >= 1 && found.place.column >= 1);
        assert!(!found.to_string().contains('\n'), "one diagnostic is one line");
    }
}
