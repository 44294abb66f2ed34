//! Whole configurations, from files in memory to plans and diagnostics.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::*;

mod broken;
mod broken_files;
mod broken_mapping;
mod can;
mod hostile;
mod right;

/// Self-signed, and its key; another key.
const TEST_CERTIFICATE: &str = include_str!("tests/pem/test.pem");
const TEST_KEY: &str = include_str!("tests/pem/test.key");
const OTHER_KEY: &str = include_str!("tests/pem/other.key");

/// Files in memory.
#[derive(Clone, Default)]
struct Memory(BTreeMap<PathBuf, String>);

impl Memory {
    fn with(mut self, path: &str, text: &str) -> Self {
        self.0.insert(path.into(), text.to_owned());
        self
    }

    fn compile(&self) -> Outcome {
        compile(Path::new("gw.toml"), &environment(), self)
    }
}

impl Files for Memory {
    fn read_bytes(&self, path: &Path) -> io::Result<Vec<u8>> {
        let known = self.0.get(path.strip_prefix("/here").unwrap_or(path));
        known.map(|text| text.clone().into_bytes()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn is_folder(&self, path: &Path) -> bool {
        let folder = path.strip_prefix("/here").unwrap_or(path);
        self.0.keys().any(|file| file.parent() == Some(folder))
    }

    fn find(&self, base: &Path, pattern: &str) -> Result<Vec<PathBuf>, String> {
        let whole = base.join(pattern).display().to_string();
        let pattern = glob::Pattern::new(&whole).map_err(|error| error.msg.to_owned())?;
        let options = glob::MatchOptions { require_literal_separator: true, ..glob::MatchOptions::new() };
        Ok(self.0.keys().filter(|path| pattern.matches_path_with(path, options)).cloned().collect())
    }
}

fn environment() -> Environment {
    Environment {
        host_name: "pi 1.local".to_owned(),
        state_directory: None,
        credentials_directory: None,
        working_directory: "/here".into(),
    }
}

/// A gateway file, and one mapping file.
fn files(gateway: &str, mapping: &str) -> Memory {
    Memory::default().with("gw.toml", gateway).with("mappings/m.toml", mapping)
}

fn lines(outcome: &Outcome) -> Vec<String> {
    outcome.diagnostics.iter().map(ToString::to_string).collect()
}

const BUS: &str = "[[modbus]]\nname = 'b'\nserial = '/dev/x'\n";
const DEVICE: &str = "[[modbus]]\nname = 'b'\nserial = '/dev/x'\n[[modbus.device]]\nname = 'd'\n";
/// A device and the beginning of its point: what follows is line 8.
const POINT: &str =
    "[[modbus]]\nname = 'b'\nserial = '/dev/x'\n[[modbus.device]]\nname = 'd'\n[[modbus.device.point]]\nname = 'p'\n";

fn assert_lines(outcome: &Outcome, expected: &[&str]) {
    let found = lines(outcome);
    let fits = found.len() == expected.len() && found.iter().zip(expected).all(|(line, begin)| line.starts_with(begin));
    assert!(fits, "found\n{}\nexpected\n{}", found.join("\n"), expected.join("\n"));
}

/// Each mapping, and what is found in it, without the file's name.
fn each_mapping(begin: &str, cases: &[(&str, &[&str])]) {
    for (rest, expected) in cases {
        let expected: Vec<String> = expected.iter().map(|line| format!("mappings/m.toml:{line}")).collect();
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        assert_lines(&files("", &format!("{begin}{rest}")).compile(), &expected);
    }
}

fn each_gateway(cases: &[(&str, &[&str])]) {
    for (gateway, expected) in cases {
        let expected: Vec<String> = expected.iter().map(|line| format!("gw.toml:{line}")).collect();
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        assert_lines(&files(gateway, &format!("{POINT}holding = 0")).compile(), &expected);
    }
}
