//! A configuration in memory, for the targets that need a plan.

use std::io;
use std::path::{Path, PathBuf};

use fieldgate::config::plan::Plan;
use fieldgate::config::{Environment, Files, Outcome, compile};

/// The gateway file, one mapping, and the DBC file of the shipped vehicle.
pub(crate) struct Memory<'t> {
    pub(crate) gateway: &'t [u8],
    pub(crate) mapping: &'t [u8],
}

impl Files for Memory<'_> {
    fn read_bytes(&self, path: &Path) -> io::Result<Vec<u8>> {
        match path.file_name().and_then(|name| name.to_str()) {
            Some("gateway.toml") => Ok(self.gateway.to_owned()),
            Some("mapping.toml") => Ok(self.mapping.to_owned()),
            Some("vehicle.dbc") => Ok(include_bytes!("../../mappings/can/vehicle.dbc").to_vec()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn is_folder(&self, _: &Path) -> bool {
        false
    }

    fn find(&self, _: &Path, pattern: &str) -> Result<Vec<PathBuf>, String> {
        Ok(if pattern.contains("map") { vec!["mapping.toml".into()] } else { Vec::new() })
    }
}

impl Memory<'_> {
    pub(crate) fn compile(&self) -> Outcome {
        let env = Environment { host_name: "pi-1".to_owned(), ..Environment::default() };
        compile(Path::new("gateway.toml"), &env, self)
    }
}

/// The shipped vehicle: signals of a DBC file, OBD-II requests, and commands.
pub(crate) fn vehicle() -> Plan {
    let files = Memory { gateway: b"", mapping: include_bytes!("../../mappings/can/vehicle.toml") };
    files.compile().plan.expect("the shipped mapping compiles")
}
