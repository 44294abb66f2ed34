//! Opening the file: checking it, setting a corrupt one aside, reading what the last run left.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::super::{DestId, Seq, StoreError};
use super::tables;
use super::transaction::Queues;
use crate::clock::UnixMs;

const FILE: &str = "store.sqlite";
/// Corrupt files that are kept for whoever wants to look at them; older ones make room.
const SET_ASIDE_MAX: usize = 3;
/// Another process that ends may still hold the file.
const BUSY_WAIT: Duration = Duration::from_secs(1);

/// 1 KiB pages: a commit writes whole pages, twice (log, then file), and a small page wastes least of them.
/// `EXCLUSIVE` keeps the log's index in memory instead of a third file, and a second gateway out.
/// The log is written to the file every 4 MiB: pages that changed often in between go there once.
const PRAGMAS: &str = "
PRAGMA page_size = 1024;
PRAGMA locking_mode = EXCLUSIVE;
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA wal_autocheckpoint = 4096;
PRAGMA journal_size_limit = 8388608;
PRAGMA secure_delete = OFF;
PRAGMA temp_store = MEMORY;
PRAGMA cache_size = -2048;";

/// What the file held.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) queues: Queues,
    /// Places of destinations that were closed, not removed yet.
    pub(super) purging: BTreeSet<DestId>,
    pub(super) next_seq: Seq,
    pub(super) fresh: bool,
    /// Why it can only be read.
    pub(super) read_only: Option<String>,
}

pub(super) fn file(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

/// Opens the file, making it where there is none; where the disk is read-only, for reading. Does not look for damage.
pub(super) fn connect(dir: &Path) -> Result<(Connection, Loaded), StoreError> {
    let error = match connect_writable(dir) {
        Err(error) if !is_corrupt(&error) && !is_held(&error) && !matches!(error, StoreError::Newer { .. }) => error,
        result => return result,
    };
    // The first error is the one that tells what is wrong.
    let Ok((conn, mut loaded)) = connect_read_only(dir) else { return Err(error) };
    loaded.read_only = Some(error.to_string());
    Ok((conn, loaded))
}

fn connect_writable(dir: &Path) -> Result<(Connection, Loaded), StoreError> {
    std::fs::create_dir_all(dir).map_err(|error| StoreError::Folder { path: dir.into(), error })?;
    let conn = Connection::open(file(dir))?;
    conn.busy_timeout(BUSY_WAIT)?;
    conn.set_prepared_statement_cache_capacity(32);
    conn.execute_batch(PRAGMAS)?;
    begin(dir, conn)
}

/// On a read-only disk the file cannot even be locked, and nobody can write it: it is read without locks
/// (`unix-none`), with the log that a crash left, or as it is (`immutable`) where there is none.
fn connect_read_only(dir: &Path) -> Result<(Connection, Loaded), StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let path = file(dir);
    let conn = if dir.join(format!("{FILE}-wal")).exists() {
        Connection::open_with_flags_and_vfs(&path, flags, "unix-none")?
    } else {
        let path = path.canonicalize().map_err(|error| StoreError::Folder { path: dir.into(), error })?;
        let mut uri = "file:".to_owned();
        for byte in path.as_os_str().as_encoded_bytes() {
            match byte {
                b'/' | b'-' | b'_' | b'.' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => uri.push(char::from(*byte)),
                other => uri.push_str(&format!("%{other:02X}")),
            }
        }
        Connection::open_with_flags(uri + "?immutable=1", flags)?
    };
    conn.execute_batch("PRAGMA locking_mode = EXCLUSIVE; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -2048;")?;
    begin(dir, conn)
}

fn begin(dir: &Path, conn: Connection) -> Result<(Connection, Loaded), StoreError> {
    let version: i64 = conn.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version > tables::SCHEMA_VERSION {
        return Err(StoreError::Newer { path: file(dir), version, known: tables::SCHEMA_VERSION });
    }
    let fresh = version == 0;
    if fresh {
        let tx = conn.unchecked_transaction()?;
        tx.execute_batch(tables::SCHEMA)?;
        tx.commit()?;
    } else {
        let behind =
            usize::try_from(version - 1).map_err(|_| StoreError::Corrupt(format!("schema version {version}")))?;
        for step in tables::MIGRATIONS.iter().skip(behind) {
            let tx = conn.unchecked_transaction()?;
            tx.execute_batch(step)?;
            tx.commit()?;
        }
    }
    let mut loaded = load(&conn)?;
    loaded.fresh = fresh;
    Ok((conn, loaded))
}

fn load(conn: &Connection) -> Result<Loaded, StoreError> {
    let mut loaded = Loaded { next_seq: tables::reserved(conn)?, ..Loaded::default() };
    loaded.queues.extend(tables::destinations(conn)?);
    for (dest, messages, bytes) in tables::totals(conn)? {
        match loaded.queues.get_mut(&dest) {
            Some(queue) => (queue.messages, queue.bytes) = (messages, bytes),
            None => drop(loaded.purging.insert(dest)),
        }
    }
    // The reservation is committed before its numbers are used; this only guards against a file changed by hand.
    loaded.next_seq = loaded.next_seq.max(tables::highest_segment(conn)? + 1);
    Ok(loaded)
}

/// `quick_check`: reads every page once.
pub(super) fn check(conn: &Connection) -> Result<(), StoreError> {
    let verdict: String = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict == "ok" { Ok(()) } else { Err(StoreError::Corrupt(verdict)) }
}

/// Whether another process holds the file: then it must not even be read, since it changes meanwhile.
fn is_held(error: &StoreError) -> bool {
    let StoreError::Sqlite(error) = error else { return false };
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// Whether the file itself is bad, so that only another one helps. An SQL error means that its tables are not ours.
pub(super) fn is_corrupt(error: &StoreError) -> bool {
    match error {
        StoreError::Corrupt(_) => true,
        StoreError::Sqlite(error) => error.sqlite_error_code().is_none_or(|code| {
            matches!(code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown)
        }),
        StoreError::Folder { .. }
        | StoreError::Newer { .. }
        | StoreError::FoundLate { .. }
        | StoreError::ReadOnly(_)
        | StoreError::Thread(_) => false,
    }
}

/// Moves the file and its log out of the way; gives the new name.
pub(super) fn set_aside(dir: &Path, wall: UnixMs) -> std::io::Result<String> {
    let mut secs = wall.0 / 1000;
    while dir.join(format!("{FILE}.corrupt-{secs}")).exists() {
        secs += 1;
    }
    let name = format!("{FILE}.corrupt-{secs}");
    std::fs::rename(file(dir), dir.join(&name))?;
    for suffix in ["-wal", "-shm"] {
        match std::fs::rename(dir.join(format!("{FILE}{suffix}")), dir.join(format!("{name}{suffix}"))) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    remove_oldest_set_aside(dir);
    Ok(name)
}

fn remove_oldest_set_aside(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    let mut old: Vec<i64> = entries
        .filter_map(|entry| {
            entry.ok()?.file_name().to_str()?.strip_prefix(FILE)?.strip_prefix(".corrupt-")?.parse().ok()
        })
        .collect();
    old.sort_unstable_by(|a, b| b.cmp(a));
    for secs in old.into_iter().skip(SET_ASIDE_MAX) {
        for suffix in ["", "-wal", "-shm"] {
            // One that cannot be removed costs space and nothing else.
            let _ = std::fs::remove_file(dir.join(format!("{FILE}.corrupt-{secs}{suffix}")));
        }
    }
}
