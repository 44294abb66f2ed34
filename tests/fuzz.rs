//! The short run of the fuzz targets: every input of a target's corpus, then mutations and mixtures of them, under a seed that is
//! printed. `FIELDGATE_FUZZ_SECONDS` sets how long each target takes (without it a fixed number of inputs),
//! `FIELDGATE_FUZZ_SEED` repeats a run, `FIELDGATE_FUZZ_TARGET` takes one target. The long run is fuzz/run.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "tests, shared with a crate of their own; in real time"
)]

#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::path::Path;
use std::time::{Duration, Instant};
use std::{env, fs, panic};

use fastrand::Rng;
use targets::{TARGETS, Target};

/// Without a time: what plain `cargo test` bears.
const INPUTS: u64 = 320;
const INPUT_BYTES_MAX: usize = 4096;
/// Bytes that parsers give a meaning of their own.
const TELLING: [u8; 16] = [0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF, b'"', b'[', b']', b'{', b'}', b'=', b'\n', b'#', b'-'];

fn number(name: &str) -> Option<u64> {
    env::var(name)
        .ok()
        .filter(|text| !text.is_empty())
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

fn mutated(corpus: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut input = corpus[rng.usize(..corpus.len())].clone();
    for _ in 0..=rng.usize(..6) {
        let at = rng.usize(..=input.len());
        let to = (at + rng.usize(..24)).min(input.len());
        match rng.u8(..7) {
            0 if at < input.len() => input[at] ^= 1 << rng.u8(..8),
            1 if at < input.len() => input[at] = TELLING[rng.usize(..TELLING.len())],
            2 if at < input.len() => input[at] = rng.u8(..),
            3 => drop(input.drain(at..to)),
            4 => input.splice(at..at, (0..rng.usize(..8)).map(|_| rng.u8(..)).collect::<Vec<_>>()).for_each(drop),
            5 => {
                let again = input[at..to].to_vec();
                input.splice(at..at, again).for_each(drop);
            }
            _ => {
                let other = &corpus[rng.usize(..corpus.len())];
                let from = rng.usize(..=other.len());
                let end = (from + rng.usize(..64)).min(other.len());
                input.splice(at..to, other[from..end].iter().copied()).for_each(drop);
            }
        }
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}

fn holds(name: &str, run: Target, input: &[u8], seed: u64) {
    if panic::catch_unwind(|| run(input)).is_err() {
        let found = env::temp_dir().join(format!("fieldgate-fuzz-{name}"));
        fs::write(&found, input).unwrap();
        panic!("{name} fails on the {} bytes in {} (seed {seed})", input.len(), found.display());
    }
}

#[test]
fn no_bytes_from_outside_break_a_parser() {
    let seed = number("FIELDGATE_FUZZ_SEED").unwrap_or_else(|| fastrand::u64(..));
    let each = number("FIELDGATE_FUZZ_SECONDS").map(Duration::from_secs);
    println!("seed {seed}");
    let only = env::var("FIELDGATE_FUZZ_TARGET").ok();
    for (name, run) in TARGETS.into_iter().filter(|(name, _)| only.as_deref().is_none_or(|only| only == *name)) {
        let (corpus, mut rng) = (corpus(name), Rng::with_seed(seed));
        for input in &corpus {
            holds(name, run, input, seed);
        }
        let (begun, mut count) = (Instant::now(), 0_u64);
        while count < INPUTS || each.is_some_and(|each| begun.elapsed() < each) {
            for _ in 0..32 {
                holds(name, run, &mutated(&corpus, &mut rng), seed);
            }
            count += 32;
        }
        println!("{name}: {} of the corpus, {count} mutated", corpus.len());
    }
}
