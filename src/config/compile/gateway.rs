//! `[gateway]`, `[store]`, `[status]`, and which mapping files there are.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::Context;
use crate::config::diagnostic::{Diagnostic, Place};
use crate::config::load::Environment;
use crate::config::plan::{GatewaySpec, StoreSpec};
use crate::config::reader::Table;

/// Used where the host has no name.
const NAMELESS: &str = "fieldgate";

fn fits_id(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

/// The host name, with everything replaced that an id may not have.
pub(super) fn default_id(env: &Environment) -> Arc<str> {
    let first = env.host_name.split('.').next().unwrap_or_default();
    let id: String = first.chars().map(|c| if fits_id(c) { c } else { '-' }).collect();
    if id.is_empty() { NAMELESS.into() } else { id.into() }
}

pub(super) fn gateway(section: Option<&Table<'_>>, file: &Path, cx: &Context<'_>) -> GatewaySpec {
    let mut id = default_id(cx.env);
    if let Some((table, given)) = section.and_then(|table| Some((table, table.text("id")?))) {
        if !given.is_empty() && given.len() <= 128 && given.chars().all(fits_id) {
            id = given.into();
        } else {
            let mend: String = given.chars().take(128).map(|c| if fits_id(c) { c } else { '-' }).collect();
            let mend = if mend.is_empty() { "pi-1".to_owned() } else { mend };
            cx.report.push(
                Diagnostic::error(table.place("id"), "`id` has a character that a topic's level cannot bear, or none")
                    .expected("1 to 128 letters, digits, - and _")
                    .help(format!("write `id = \"{mend}\"` instead")),
            );
        }
    }
    let state_dir = match section.and_then(|table| table.text("state_dir")) {
        Some(given) => cx.beside(file, given),
        None => cx.env.working_directory.join(cx.env.state_directory.as_deref().unwrap_or(Path::new("state"))),
    };
    GatewaySpec { id, state_dir }
}

/// The files that `mappings` names, each once.
pub(super) fn mapping_files(
    root: Option<&Table<'_>>,
    section: Option<&Table<'_>>,
    file: &Path,
    cx: &Context<'_>,
) -> Vec<PathBuf> {
    let start = Place::start_of(&file.display().to_string().into());
    let patterns = match section {
        Some(table) => table.texts("mappings"),
        None => vec![("mappings/*.toml", root.map_or(&start, Table::start))],
    };
    let base = file.parent().unwrap_or(Path::new(""));
    let mut files: Vec<PathBuf> = Vec::new();
    for (pattern, place) in patterns {
        match cx.files.find(base, pattern) {
            Err(error) => {
                let found = format!("`{pattern}` is no pattern for files: {error}");
                cx.report.error(place, found, "write, say, `mappings = [\"mappings/*.toml\"]` instead");
            }
            Ok(found) if found.is_empty() && !pattern.contains(['*', '?', '[']) => {
                let path = cx.beside(file, pattern);
                if cx.files.is_folder(&path) {
                    let found = format!("{} is a folder, not a mapping file", path.display());
                    let help = format!("write `mappings = [\"{}/*.toml\"]` instead", pattern.trim_end_matches('/'));
                    cx.report.error(place, found, help);
                    continue;
                }
                let found = format!("the mapping file {} does not exist", path.display());
                cx.report.error(place, found, "create it, or correct the path, which is relative to this file");
            }
            Ok(found) if found.is_empty() => {
                // A gateway file that could not be parsed has said enough.
                if root.is_some() {
                    let found = format!("no mapping files match `{pattern}` in {}", cx.beside(file, "").display());
                    cx.report.warning(place, found, without_mappings(file, pattern, cx));
                }
            }
            Ok(found) => {
                for path in found {
                    if !files.contains(&path) {
                        files.push(path);
                    }
                }
            }
        }
    }
    files
}

/// Names the example that a package has put beside, where there is one.
fn without_mappings(file: &Path, pattern: &str, cx: &Context<'_>) -> String {
    let base = file.parent().unwrap_or(Path::new(""));
    let examples = cx.files.find(base, &format!("{pattern}.example")).unwrap_or_default();
    let Some(example) = examples.first() else { return "nothing is polled until there is one".to_owned() };
    let example = example.display().to_string();
    let mapping = example.trim_end_matches(".example");
    format!("nothing is polled until there is one: cp {example} {mapping}, and edit it")
}

pub(super) fn store(root: Option<&Table<'_>>, cx: &Context<'_>) -> StoreSpec {
    const COMMIT_MS: u64 = 250;
    let table = root.and_then(|root| root.table("store", &cx.report));
    let commit = table.map_or(COMMIT_MS, |table| table.unsigned("commit_ms"));
    StoreSpec { commit_window: Duration::from_millis(commit) }
}

pub(super) fn status(root: Option<&Table<'_>>, cx: &Context<'_>) -> Option<SocketAddr> {
    bind(&root?.table("status", &cx.report)?, "127.0.0.1:8080", cx)
}

/// The table's `bind`, claimed.
pub(super) fn bind(table: &Table<'_>, example: &str, cx: &Context<'_>) -> Option<SocketAddr> {
    let given = table.text("bind")?;
    let place = table.place("bind");
    match given.parse() {
        Ok(bind) => {
            cx.names.claim_bind(bind, place, &cx.report);
            Some(bind)
        }
        Err(_) => {
            let mend = match given.parse::<std::net::IpAddr>() {
                Ok(address) => {
                    SocketAddr::new(address, example.parse::<SocketAddr>().map_or(1883, |e| e.port())).to_string()
                }
                Err(_) => example.to_owned(),
            };
            cx.report.push(
                Diagnostic::error(place, "`bind` is no address to listen on")
                    .expected("an IP address and a port; 0.0.0.0 for all of IPv4, [::] for all of IPv6")
                    .help(format!("write, say, `bind = \"{mend}\"` instead")),
            );
            None
        }
    }
}
