//! Whatever the bytes, the answer is a plan or diagnostics, each with a place in the text.

use proptest::prelude::*;

use super::*;

const SEED: &str = include_str!("../../../mappings/boiler-room.toml");
const GATEWAY: &str = include_str!("../../../systemd/fieldgate.toml");

fn check(gateway: &str, mapping: &str) {
    let outcome = files(gateway, mapping).compile();
    let errors = outcome.diagnostics.iter().any(|found| found.severity == Severity::Error);
    assert_eq!(outcome.plan.is_none(), errors);
    for found in &outcome.diagnostics {
        assert!(found.place.line >= 1 && found.place.column >= 1);
        assert!(!found.to_string().contains('\n'));
    }
    let _ = compile_profile("p.toml", mapping);
}

/// A valid file with one stretch replaced by other bytes, or by another stretch of it.
fn mutated(seed: &'static str) -> impl Strategy<Value = String> {
    let ends =
        (0..seed.len(), 0..40usize, prop_oneof!["\\PC{0,8}".boxed(), "[\\[\\]{}=\"'.,#\n0-9a-z_-]{0,12}".boxed()]);
    (ends, 0..seed.len(), 0..80usize).prop_map(move |((at, cut, with), from, length)| {
        let bytes = seed.as_bytes();
        let mut text = bytes[..at].to_vec();
        text.extend(with.bytes());
        text.extend(&bytes[from..(from + length).min(bytes.len())]);
        text.extend(&bytes[(at + cut).min(bytes.len())..]);
        String::from_utf8_lossy(&text).into_owned()
    })
}

proptest! {
    #[test]
    fn no_text_panics_the_loader(text in "\\PC{0,200}") {
        check(&text, &text);
    }

    #[test]
    fn no_toml_like_text_panics_the_loader(text in "([\\[\\]{}=\"'.,#\n]|modbus|device|point|name|[0-9]|nan|1e999| ){0,60}") {
        check(&text, &text);
    }

    #[test]
    fn no_mutation_of_a_right_file_panics_the_loader(gateway in mutated(GATEWAY), mapping in mutated(SEED)) {
        check(&gateway, SEED);
        check(GATEWAY, &mapping);
    }
}

#[test]
fn depth_and_length_do_not_overflow_the_stack() {
    let deep = [
        format!("a = {}1{}", "[".repeat(50_000), "]".repeat(50_000)),
        format!("a = {}1{}", "{ a = ".repeat(50_000), "}".repeat(50_000)),
        format!("{}b = 1", "a.".repeat(50_000)),
        format!("[{}b]", "a.".repeat(50_000)),
        format!("[{}b]\n{}b = 1", "a.".repeat(100), "a.".repeat(100)),
        format!("{}1{}", format!("{}b = {{\n", "a.".repeat(100)).repeat(80), "}\n".repeat(80)),
        format!("{}1{}", format!("{}b = {{\n", "a.".repeat(100)).repeat(79), "}\n".repeat(79)),
        format!("{}b = 1{}", format!("{}b = {{\n", "a.".repeat(100)).repeat(70), "}\n".repeat(70)),
    ];
    for text in deep {
        check(&text, &text);
    }
}
