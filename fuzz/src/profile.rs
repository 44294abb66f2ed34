//! A device profile.

use fieldgate::config::compile_profile;

pub fn run(data: &[u8]) {
    let outcome = compile_profile("profile.toml", &String::from_utf8_lossy(data));
    assert_eq!(outcome.plan.is_none(), outcome.diagnostics.iter().any(|found| found.is_error()));
}
