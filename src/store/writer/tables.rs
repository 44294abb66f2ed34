//! The tables and every statement on them.
//!
//! `segment` holds the messages of (at most) one commit in one row; `place` says for each destination which of
//! them it still has to receive. A segment goes with its last place.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::super::encode;
use super::super::seqset::SeqSet;
use super::super::{DestId, QueueSpec, Seq, Space, WhenFull};
use super::transaction::Queue;
use crate::clock::UnixMs;

pub(super) const SCHEMA_VERSION: i64 = 2;

pub(super) const SCHEMA: &str = "
CREATE TABLE meta(key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE destination(
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, max_bytes INTEGER NOT NULL, max_age_secs INTEGER, drop_newest INTEGER NOT NULL,
    dropped INTEGER NOT NULL DEFAULT 0);
CREATE TABLE segment(first_seq INTEGER PRIMARY KEY, destinations BLOB NOT NULL, body BLOB NOT NULL);
CREATE TABLE place(
    destination INTEGER NOT NULL, first_seq INTEGER NOT NULL, at INTEGER NOT NULL, messages INTEGER NOT NULL,
    bytes INTEGER NOT NULL, remaining BLOB NOT NULL, PRIMARY KEY(destination, first_seq)) WITHOUT ROWID;
CREATE TABLE kept(space INTEGER NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, PRIMARY KEY(space, key)) WITHOUT ROWID;
PRAGMA user_version = 2;";

/// What leads from each version to the next, the first from 1 to 2. Each is done in a transaction of its own with its
/// `user_version`, so that a kill leaves the file at one version or the other.
pub(super) const MIGRATIONS: [&str; 1] =
    ["ALTER TABLE destination ADD COLUMN dropped INTEGER NOT NULL DEFAULT 0; PRAGMA user_version = 2;"];

type Result<T> = rusqlite::Result<T>;

/// What a destination still has to receive of one segment. `left` is `None` where its bytes are damaged.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) first: Seq,
    pub(super) at: UnixMs,
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) left: Option<SeqSet>,
}

/// SQLite's integers are signed; every number here is below 2^63, larger ones are refused on arrival.
fn sql(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn natural(row: &Row<'_>, column: usize) -> Result<u64> {
    Ok(u64::try_from(row.get::<_, i64>(column)?).unwrap_or(0))
}

fn place(dest: DestId, row: &Row<'_>) -> Result<Place> {
    let first = natural(row, 0)?;
    let left = encode::read_left(dest, first, row.get_ref(4)?.as_blob().unwrap_or(&[])).ok();
    Ok(Place { first, at: UnixMs(row.get(1)?), messages: natural(row, 2)?, bytes: natural(row, 3)?, left })
}

/// The last place that begins at or before `seq`.
pub(super) fn place_at(conn: &Connection, dest: DestId, seq: Seq) -> Result<Option<Place>> {
    conn.prepare_cached(
        "SELECT first_seq, at, messages, bytes, remaining FROM place
         WHERE destination = ?1 AND first_seq <= ?2 ORDER BY first_seq DESC LIMIT 1",
    )?
    .query_row(params![dest.0, sql(seq)], |row| place(dest, row))
    .optional()
}

/// The first place that begins after `seq`.
pub(super) fn place_after(conn: &Connection, dest: DestId, seq: Seq) -> Result<Option<Place>> {
    conn.prepare_cached(
        "SELECT first_seq, at, messages, bytes, remaining FROM place
         WHERE destination = ?1 AND first_seq > ?2 ORDER BY first_seq LIMIT 1",
    )?
    .query_row(params![dest.0, sql(seq)], |row| place(dest, row))
    .optional()
}

/// The first place of a destination, of which the lowest number is 1.
pub(super) fn oldest_place(conn: &Connection, dest: DestId) -> Result<Option<Place>> {
    place_after(conn, dest, 0)
}

pub(super) fn put_place(conn: &Connection, dest: DestId, place: &Place) -> Result<()> {
    let left = place.left.as_ref().map(|left| encode::left(dest, place.first, left)).unwrap_or_default();
    conn.prepare_cached(
        "INSERT INTO place(destination, first_seq, at, messages, bytes, remaining) VALUES(?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT DO UPDATE SET messages = excluded.messages, bytes = excluded.bytes, remaining = excluded.remaining",
    )?
    .execute(params![dest.0, sql(place.first), place.at.0, sql(place.messages), sql(place.bytes), left])
    .map(drop)
}

/// Removes a place, and its segment where no other destination has a place in it.
pub(super) fn remove_place(conn: &Connection, dest: DestId, first: Seq) -> Result<()> {
    conn.prepare_cached("DELETE FROM place WHERE destination = ?1 AND first_seq = ?2")?
        .execute(params![dest.0, sql(first)])?;
    let others: Option<Vec<u8>> = conn
        .prepare_cached("SELECT destinations FROM segment WHERE first_seq = ?1")?
        .query_row([sql(first)], |row| row.get(0))
        .optional()?;
    let mut has_place = conn.prepare_cached("SELECT 1 FROM place WHERE destination = ?1 AND first_seq = ?2")?;
    for other in others.unwrap_or_default().as_chunks::<4>().0 {
        if has_place.exists(params![u32::from_le_bytes(*other), sql(first)])? {
            return Ok(());
        }
    }
    conn.prepare_cached("DELETE FROM segment WHERE first_seq = ?1")?.execute([sql(first)]).map(drop)
}

pub(super) fn put_segment(conn: &Connection, first: Seq, dests: &[DestId], body: &[u8]) -> Result<()> {
    let dests: Vec<u8> = dests.iter().flat_map(|dest| dest.0.to_le_bytes()).collect();
    conn.prepare_cached("INSERT INTO segment(first_seq, destinations, body) VALUES(?1, ?2, ?3)")?
        .execute(params![sql(first), dests, body])
        .map(drop)
}

pub(super) fn body(conn: &Connection, first: Seq) -> Result<Option<Vec<u8>>> {
    conn.prepare_cached("SELECT body FROM segment WHERE first_seq = ?1")?
        .query_row([sql(first)], |row| row.get(0))
        .optional()
}

pub(super) fn put_destination(
    conn: &Connection,
    dest: DestId,
    name: &str,
    queue: &QueueSpec,
    dropped: u64,
) -> Result<()> {
    conn.prepare_cached(
        "INSERT OR REPLACE INTO destination(id, name, max_bytes, max_age_secs, drop_newest, dropped)
         VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        dest.0,
        name,
        sql(queue.max_bytes),
        queue.max_age_secs.map(sql),
        queue.when_full == WhenFull::DropNewest,
        sql(dropped)
    ])
    .map(drop)
}

/// How many messages its bounds and damage have cost a destination since it was first opened.
pub(super) fn put_dropped(conn: &Connection, dest: DestId, dropped: u64) -> Result<()> {
    conn.prepare_cached("UPDATE destination SET dropped = ?2 WHERE id = ?1")?
        .execute(params![dest.0, sql(dropped)])
        .map(drop)
}

pub(super) fn remove_destination(conn: &Connection, dest: DestId) -> Result<()> {
    conn.prepare_cached("DELETE FROM destination WHERE id = ?1")?.execute([dest.0]).map(drop)
}

/// Every destination, with its bounds and what they cost it so far; the sums of its places are not in it.
pub(super) fn destinations(conn: &Connection) -> Result<Vec<(DestId, Queue)>> {
    conn.prepare("SELECT id, name, max_bytes, max_age_secs, drop_newest, dropped FROM destination ORDER BY id")?
        .query_map([], |row| {
            let max_age_secs = row.get::<_, Option<i64>>(3)?.map(|secs| u64::try_from(secs).unwrap_or(0));
            let when_full = if row.get(4)? { WhenFull::DropNewest } else { WhenFull::DropOldest };
            let spec = QueueSpec { max_bytes: natural(row, 2)?, max_age_secs, when_full };
            let name = row.get::<_, String>(1)?.into();
            Ok((DestId(row.get(0)?), Queue { name, spec, messages: 0, bytes: 0, dropped: natural(row, 5)? }))
        })?
        .collect()
}

/// Messages and bytes of each destination that has a place, known or not.
pub(super) fn totals(conn: &Connection) -> Result<Vec<(DestId, u64, u64)>> {
    conn.prepare("SELECT destination, sum(messages), sum(bytes) FROM place GROUP BY destination")?
        .query_map([], |row| Ok((DestId(row.get(0)?), natural(row, 1)?, natural(row, 2)?)))?
        .collect()
}

pub(super) fn highest_segment(conn: &Connection) -> Result<Seq> {
    conn.query_row("SELECT coalesce(max(first_seq), 0) FROM segment", [], |row| natural(row, 0))
}

pub(super) fn keep(conn: &Connection, space: Space, key: &Bytes, value: Option<&Bytes>) -> Result<()> {
    match value {
        Some(value) => conn
            .prepare_cached("INSERT OR REPLACE INTO kept(space, key, value) VALUES(?1, ?2, ?3)")?
            .execute(params![space as u8, &key[..], &value[..]]),
        None => conn
            .prepare_cached("DELETE FROM kept WHERE space = ?1 AND key = ?2")?
            .execute(params![space as u8, &key[..]]),
    }
    .map(drop)
}

pub(super) fn kept(conn: &Connection, space: Space) -> Result<Vec<(Bytes, Bytes)>> {
    conn.prepare("SELECT key, value FROM kept WHERE space = ?1 ORDER BY key")?
        .query_map([space as u8], |row| Ok((row.get::<_, Vec<u8>>(0)?.into(), row.get::<_, Vec<u8>>(1)?.into())))?
        .collect()
}

/// Numbers below this were promised to no one after it: a later run begins here.
pub(super) fn reserved(conn: &Connection) -> Result<Seq> {
    conn.query_row("SELECT value FROM meta WHERE key = 'next_seq'", [], |row| natural(row, 0))
        .optional()
        .map(|found| found.unwrap_or(1))
}

pub(super) fn reserve(conn: &Connection, next: Seq) -> Result<()> {
    conn.prepare_cached("INSERT OR REPLACE INTO meta(key, value) VALUES('next_seq', ?1)")?
        .execute([sql(next)])
        .map(drop)
}
