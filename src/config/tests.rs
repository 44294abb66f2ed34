//! Whole configurations, from files in memory to plans and diagnostics.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::*;

mod broken;
mod hostile;
mod right;

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
    fn read(&self, path: &Path) -> io::Result<String> {
        self.0.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn check_readable(&self, path: &Path) -> io::Result<()> {
        let known = path.strip_prefix("/here").unwrap_or(path);
        self.0.get(known).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
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
