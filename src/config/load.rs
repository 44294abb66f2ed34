//! The only file of this module that reads files, the environment or the host's name.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::compile::{Outcome, compile};
use super::document::FILE_BYTES_MAX;

/// What the machine says; handed in, so that compiling is pure.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    pub host_name: String,
    /// `$STATE_DIRECTORY`: systemd's `StateDirectory=`.
    pub state_directory: Option<PathBuf>,
    /// `$CREDENTIALS_DIRECTORY`: systemd's `LoadCredential=`.
    pub credentials_directory: Option<PathBuf>,
    pub working_directory: PathBuf,
}

impl Environment {
    /// Of this process. What cannot be read is left empty.
    pub fn of_process() -> Self {
        let folder = |name| {
            let value: OsString = std::env::var_os(name)?;
            // systemd joins several state directories by colons; the first is the unit's own.
            let first = std::env::split_paths(&value).next()?;
            (!first.as_os_str().is_empty()).then_some(first)
        };
        Self {
            host_name: std::fs::read_to_string("/proc/sys/kernel/hostname")
                .map(|name| name.trim().to_owned())
                .unwrap_or_default(),
            state_directory: folder("STATE_DIRECTORY"),
            credentials_directory: folder("CREDENTIALS_DIRECTORY"),
            working_directory: std::env::current_dir().unwrap_or_default(),
        }
    }
}

/// The files that a configuration names.
pub trait Files {
    /// # Errors
    /// What the system says; also of a file that is too large, or that is a device or a named pipe.
    fn read_bytes(&self, path: &Path) -> io::Result<Vec<u8>>;

    fn is_folder(&self, path: &Path) -> bool;

    /// The files under `base` that match `pattern`, sorted.
    ///
    /// # Errors
    /// What is wrong with the pattern.
    fn find(&self, base: &Path, pattern: &str) -> Result<Vec<PathBuf>, String>;
}

/// The file system.
#[derive(Clone, Copy, Debug)]
pub struct Disk;

impl Files for Disk {
    fn read_bytes(&self, path: &Path) -> io::Result<Vec<u8>> {
        let kind = std::fs::metadata(path)?.file_type();
        // A pipe of the shell's (`<(…)`, /dev/stdin) has no name in the file system; one that has could wait for ever.
        if !kind.is_file() && !kind.is_dir() && path.canonicalize().is_ok() {
            return Err(io::Error::other("it is no regular file"));
        }
        let mut bytes = Vec::new();
        File::open(path)?.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > FILE_BYTES_MAX {
            let found = format!("it is larger than {FILE_BYTES_MAX} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, found));
        }
        Ok(bytes)
    }

    fn is_folder(&self, path: &Path) -> bool {
        path.is_dir()
    }

    fn find(&self, base: &Path, pattern: &str) -> Result<Vec<PathBuf>, String> {
        let whole = if Path::new(pattern).is_absolute() {
            pattern.to_owned()
        } else {
            let base = glob::Pattern::escape(&base.to_string_lossy());
            if base.is_empty() { pattern.to_owned() } else { format!("{base}/{pattern}") }
        };
        let found = glob::glob(&whole).map_err(|error| error.msg.to_owned())?;
        let mut files: Vec<PathBuf> = found.filter_map(Result::ok).filter(|path| !path.is_dir()).collect();
        files.sort();
        Ok(files)
    }
}

/// Reads and checks a gateway file and everything that it names. A reload calls it again.
pub fn load(gateway_file: &Path) -> Outcome {
    compile(gateway_file, &Environment::of_process(), &Disk)
}
