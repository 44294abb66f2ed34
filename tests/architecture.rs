//! The shape that `ARCHITECTURE.md` draws, held over the syntax tree of `src/`: who may import whom, where clocks are
//! read, tasks started and sockets and files opened, and how long a file may grow.
//!
//! Code under `#[cfg(test)]` is exempt. Paths inside macro bodies are seen too, by their tokens.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test: it may fail loudly, and syn's enums are open"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use proc_macro2::{Span, TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// Lines of a file, those of its test modules not counted.
const FILE_LINES_MAX: usize = 450;

/// They know the core types and themselves; only `gateway` and `check` wire them.
const SIBLINGS: [&str; 12] =
    ["modbus", "can", "mapping", "broker", "store", "uplink", "status", "hub", "config", "simulate", "probe", "watch"];

/// What everything stands on; it stands on nothing but itself.
const CORE: [&str; 8] = ["clock", "pulse", "timestamp", "sample", "message", "command", "driver", "backoff"];

/// Who may import what of a sibling, and why. `*` is any of them.
const EXCEPTIONS: &[(&str, &[&str], &str)] = &[
    ("*", &["hub", "topics"], "topic names and filters mean the same everywhere"),
    ("broker", &["hub", "index"], "one subscription index for all who listen"),
    ("simulate", &["mapping", "rule"], "a point's unit and scale say how it moves"),
    ("config", &["modbus", "spec"], "it compiles to specs"),
    ("config", &["can", "spec"], "it compiles to specs"),
    ("config", &["mapping", "rule"], "it compiles to rules"),
    ("config", &["broker", "spec"], "it compiles to specs"),
    ("config", &["uplink", "spec"], "it compiles to specs"),
    ("config", &["store"], "it compiles to the bounds of queues"),
    ("simulate", &["modbus"], "it answers what that asks"),
    ("simulate", &["can"], "it answers what that asks, and sends what that hears"),
    ("simulate", &["config", "plan"], "it stands in for the devices of a plan"),
    ("probe", &["modbus"], "it asks what a bus asks, by the same lines and connections"),
    ("probe", &["config", "host_and_port"], "an address is written alike everywhere"),
    ("watch", &["config", "host_and_port"], "an address is written alike everywhere"),
    ("watch", &["uplink", "codec"], "one MQTT client's decoder"),
    ("watch", &["uplink", "encode"], "one MQTT client's constants"),
    ("watch", &["uplink", "error"], "a refusal reads alike everywhere"),
    ("watch", &["uplink", "spec"], "a broker's URL and protocol version"),
    ("watch", &["uplink", "transport"], "the same ways to a broker"),
];

/// The store's interface, which what keeps a durable queue is written against.
const ON_THE_STORE: [&str; 4] = ["broker", "uplink", "hub", "status"];

/// Of the store's interface, this is not: it is the one SQLite thread's own.
const STORE_INNER: [&str; 2] = ["writer", "schema"];

/// What only tasks do: the beginning of a path, and what to do instead.
const FOR_TASKS_ONLY: [(&str, &str); 21] = [
    ("std::time::Instant::now", CLOCK),
    ("std::time::SystemTime::now", CLOCK),
    ("tokio::time::Instant::now", CLOCK),
    ("time::OffsetDateTime::now_utc", CLOCK),
    ("time::OffsetDateTime::now_local", CLOCK),
    ("crate::clock::Now::read", CLOCK),
    ("tokio::spawn", SPAWN),
    ("tokio::task::spawn", SPAWN),
    ("tokio::task::spawn_local", SPAWN),
    ("tokio::task::spawn_blocking", SPAWN),
    ("tokio::task::JoinSet", SPAWN),
    ("std::thread::spawn", SPAWN),
    ("std::thread::scope", SPAWN),
    ("std::thread::Builder", SPAWN),
    ("std::net", IO),
    ("std::os::unix::net", IO),
    ("std::fs", IO),
    ("std::process::Command", IO),
    ("tokio::net", IO),
    ("tokio::fs", IO),
    ("tokio::process", IO),
];
const CLOCK: &str = "take a `clock::Now` as an argument";
const SPAWN: &str = "start it in `gateway`, or in the folder's `task.rs`";
const IO: &str = "move it to the folder's `task.rs`, and hand its bytes to this file";

/// Of `std::net`: data, not sockets.
const ADDRESSES: [&str; 9] = [
    "AddrParseError",
    "IpAddr",
    "Ipv4Addr",
    "Ipv6Addr",
    "Shutdown",
    "SocketAddr",
    "SocketAddrV4",
    "SocketAddrV6",
    "Incoming",
];

fn may_touch_the_world(file: &str) -> bool {
    let name = file.rsplit('/').next().unwrap_or(file);
    matches!(file, "main.rs" | "clock.rs" | "gateway.rs" | "store/writer.rs" | "config/load.rs")
        || file.starts_with("gateway/")
        || file.starts_with("store/writer/")
        || name == "task.rs"
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Offence {
    file: String,
    line: usize,
    what: String,
}

impl fmt::Display for Offence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "src/{}:{}: {}", self.file, self.line, self.what)
    }
}

/// A path as it stands in the code, with the line of its first segment.
struct Mention {
    segments: Vec<String>,
    line: usize,
    /// Modules around it inside the file.
    inside: Vec<String>,
}

/// Everything in one file that a rule looks at.
#[derive(Default)]
struct Survey {
    imports: Vec<(Mention, String)>,
    mentions: Vec<Mention>,
    test_lines: usize,
    /// `#[cfg(test)] mod NAME;`
    test_files: Vec<String>,
    inside: Vec<String>,
}

fn is_test_only(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || attribute.path().segments.last().is_some_and(|last| last.ident == "test")
            || (attribute.path().is_ident("cfg")
                && attribute.parse_args::<syn::Path>().is_ok_and(|only| only.is_ident("test")))
    })
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::Type(item) => &item.attrs,
        syn::Item::Trait(item) => &item.attrs,
        syn::Item::Macro(item) => &item.attrs,
        _ => &[],
    }
}

fn lines_of(span: Span) -> usize {
    span.end().line - span.start().line + 1
}

impl Survey {
    fn flatten(&mut self, tree: &syn::UseTree, before: &[String]) {
        let extended = |segment: &syn::Ident| {
            let mut path = before.to_vec();
            path.push(segment.to_string());
            path
        };
        match tree {
            syn::UseTree::Path(path) => self.flatten(&path.tree, &extended(&path.ident)),
            syn::UseTree::Name(name) if name.ident == "self" => {
                let local = before.last().cloned().unwrap_or_default();
                self.import(before.to_vec(), local, name.ident.span());
            }
            syn::UseTree::Name(name) => self.import(extended(&name.ident), name.ident.to_string(), name.ident.span()),
            syn::UseTree::Rename(name) => {
                let path = if name.ident == "self" { before.to_vec() } else { extended(&name.ident) };
                self.import(path, name.rename.to_string(), name.ident.span());
            }
            syn::UseTree::Glob(glob) => self.import(before.to_vec(), String::new(), glob.span()),
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.flatten(tree, before);
                }
            }
        }
    }

    fn import(&mut self, segments: Vec<String>, local: String, span: Span) {
        let mention = Mention { segments, line: span.start().line, inside: self.inside.clone() };
        self.imports.push((mention, local));
    }

    fn mention(&mut self, segments: Vec<String>, line: usize) {
        self.mentions.push(Mention { segments, line, inside: self.inside.clone() });
    }

    /// Whatever looks like a path in a macro's tokens.
    fn scan(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut place = 0;
        while let Some(token) = tokens.get(place) {
            match token {
                TokenTree::Group(group) => self.scan(group.stream()),
                TokenTree::Ident(first) => {
                    let line = first.span().start().line;
                    let after_dot =
                        place > 0 && matches!(&tokens[place - 1], TokenTree::Punct(p) if p.as_char() == '.');
                    let mut segments = vec![first.to_string()];
                    while let [TokenTree::Punct(a), TokenTree::Punct(b), TokenTree::Ident(next)] =
                        tokens.get(place + 1..place + 4).unwrap_or_default()
                        && a.as_char() == ':'
                        && b.as_char() == ':'
                    {
                        segments.push(next.to_string());
                        place += 3;
                    }
                    if !after_dot {
                        self.mention(segments, line);
                    }
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
            place += 1;
        }
    }
}

impl<'ast> Visit<'ast> for Survey {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if is_test_only(attributes(item)) {
            self.test_lines += lines_of(item.span());
            if let syn::Item::Mod(module) = item
                && module.content.is_none()
            {
                self.test_files.push(module.ident.to_string());
            }
            return;
        }
        visit::visit_item(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_test_only(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        self.inside.push(module.ident.to_string());
        visit::visit_item_mod(self, module);
        self.inside.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.flatten(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.mention(segments, path.span().start().line);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, called: &'ast syn::Macro) {
        self.scan(called.tokens.clone());
        visit::visit_macro(self, called);
    }

    // Attributes name lints and derives, nothing that runs.
    fn visit_attribute(&mut self, _: &'ast syn::Attribute) {}
}

/// The module that a file is: `modbus/mod.rs` is `modbus`, `modbus/task.rs` is `modbus::task`, `main.rs` the root.
fn module_of(file: &str) -> Vec<String> {
    let mut path: Vec<String> = file.trim_end_matches(".rs").split('/').map(String::from).collect();
    if matches!(path.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        path.pop();
    }
    path
}

/// The whole path from `crate`, or from the name of another crate; `names` is what the file's imports made local.
fn resolve(mention: &Mention, module: &[String], names: Option<&BTreeMap<String, Vec<String>>>) -> Vec<String> {
    let mut here: Vec<String> = module.iter().chain(&mention.inside).cloned().collect();
    let mut rest = mention.segments.as_slice();
    let from_here = |here: Vec<String>, rest: &[String]| {
        std::iter::once("crate".to_owned()).chain(here).chain(rest.iter().cloned()).collect()
    };
    match rest.first().map(String::as_str) {
        Some("crate" | "fieldgate") => from_here(Vec::new(), &rest[1..]),
        Some("self") => from_here(here, &rest[1..]),
        Some("super") => {
            while rest.first().is_some_and(|segment| segment == "super") {
                here.pop();
                rest = &rest[1..];
            }
            from_here(here, rest)
        }
        Some(first) => match names.and_then(|names| names.get(first)) {
            Some(full) => full.iter().cloned().chain(rest[1..].iter().cloned()).collect(),
            None => rest.to_vec(),
        },
        None => Vec::new(),
    }
}

fn begins_with(path: &[String], start: &[&str]) -> bool {
    path.len() >= start.len() && path.iter().zip(start).all(|(one, other)| one == other)
}

/// Why `file` must not mention `path`, where it must not.
fn foreign_import(module: &[String], path: &[String]) -> Option<String> {
    let (from, target) = (module.first()?.as_str(), path.get(1)?.as_str());
    if path[0] != "crate" || !SIBLINGS.contains(&target) || from == target {
        return None;
    }
    let allowed = EXCEPTIONS
        .iter()
        .filter(|(who, _, _)| *who == "*" || *who == from)
        // A whole sibling's name: what is taken out of it is judged where it is taken.
        .any(|(_, what, _)| begins_with(&path[1..], what) || (path.len() == 2 && what.first() == Some(&target)));
    let stores = ON_THE_STORE.contains(&from)
        && target == "store"
        && !path.get(2).is_some_and(|inner| STORE_INNER.contains(&inner.as_str()));
    let bound = SIBLINGS.contains(&from) || CORE.contains(&from);
    (bound && !allowed && !stores).then(|| {
        format!(
            "`{from}` imports `{}`: siblings never import each other; pass a core type, or wire it in `gateway`",
            path[1..].join("::")
        )
    })
}

/// What only a task may do, where `path` is that.
fn worldly(path: &[String]) -> Option<String> {
    if begins_with(path, &["std", "net"]) && path.get(2).is_none_or(|name| ADDRESSES.contains(&name.as_str())) {
        return None;
    }
    FOR_TASKS_ONLY
        .iter()
        .find(|(start, _)| begins_with(path, &start.split("::").collect::<Vec<_>>()))
        .map(|(_, instead)| format!("`{}` outside a task: {instead}", path.join("::")))
}

/// Every offence of one file, and the files that its test modules live in.
fn survey(file: &str, source: &str) -> (BTreeSet<Offence>, Vec<PathBuf>) {
    let tree = syn::parse_file(source).unwrap_or_else(|error| panic!("src/{file}: {error}"));
    let mut survey = Survey::default();
    survey.visit_file(&tree);
    let module = module_of(file);
    let mut found = BTreeSet::new();
    let mut offend = |line, what| {
        found.insert(Offence { file: file.to_owned(), line, what });
    };

    let mut names = BTreeMap::new();
    let mut paths = Vec::new();
    for (mention, local) in &survey.imports {
        let full = resolve(mention, &module, None);
        names.insert(local.clone(), full.clone());
        paths.push((full, mention.line));
    }
    paths.extend(survey.mentions.iter().map(|mention| (resolve(mention, &module, Some(&names)), mention.line)));
    for (path, line) in &paths {
        if let Some(what) = foreign_import(&module, path) {
            offend(*line, what);
        }
        if !may_touch_the_world(file)
            && let Some(what) = worldly(path)
        {
            offend(*line, what);
        }
    }

    let lines = source.lines().count() - survey.test_lines.min(source.lines().count());
    if lines > FILE_LINES_MAX {
        offend(1, format!("{lines} lines without its tests, {FILE_LINES_MAX} at most: split it by meaning"));
    }
    let folder: PathBuf = module.iter().collect();
    (found, survey.test_files.iter().map(|name| folder.join(format!("{name}.rs"))).collect())
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn the_source_keeps_the_shape_that_the_architecture_draws() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&root, &mut files);
    assert!(files.len() > 10, "src/ was not found");
    let mut offences = BTreeSet::new();
    let mut test_files = BTreeSet::new();
    for path in &files {
        let file = path.strip_prefix(&root).expect("below src").to_string_lossy().replace('\\', "/");
        let (found, tests) = survey(&file, &std::fs::read_to_string(path).expect("UTF-8"));
        offences.extend(found);
        test_files.extend(tests);
    }
    // A test module's own submodules lie in the folder of its name.
    offences.retain(|offence| {
        let file = Path::new(&offence.file);
        !test_files.iter().any(|tests| file == tests || file.starts_with(tests.with_extension("")))
    });
    let report: Vec<String> = offences.iter().map(Offence::to_string).collect();
    assert!(report.is_empty(), "{} offences:\n{}", report.len(), report.join("\n"));
}

fn said_of(file: &str, source: &str) -> Vec<String> {
    survey(file, source).0.iter().map(Offence::to_string).collect()
}

#[test]
fn a_planted_import_of_a_sibling_is_found_however_it_is_written() {
    for planted in [
        "use crate::broker::session::Session;",
        "use crate::{clock::Now, broker::{self}};",
        "use super::super::broker::acl as rules;",
        "fn f() { crate::broker::acl::check(); }",
        "mod inner { use super::super::super::broker::Client; }",
        "fn f() { println!(\"{}\", crate::broker::LIMIT); }",
        "use crate::store::QueueSpec;",
        "use crate::hub; fn f() { hub::route::go(); }",
        "use crate::*; use crate::gateway; use crate::config::plan::Plan;",
    ] {
        let said = said_of("modbus/schedule.rs", planted);
        assert_eq!(said.len(), 1, "{planted}: {said:?}");
        assert!(said[0].starts_with("src/modbus/schedule.rs:1: `modbus` imports"), "{said:?}");
    }
    assert_eq!(said_of("sample.rs", "use crate::mapping::rule::Kind;").len(), 1);
    assert_eq!(said_of("broker/session.rs", "use crate::store::writer::Writer;").len(), 1);
}

#[test]
fn the_allowed_imports_are_no_offence() {
    for (file, source) in [
        ("modbus/task.rs", "use crate::{clock::Now, hub::topics::filter_matches, sample::Sample}; use super::spec;"),
        (
            "config/compile.rs",
            "use crate::broker::spec::BrokerSpec; use crate::mapping::rule; use crate::store::QueueSpec;",
        ),
        ("broker/session.rs", "use crate::store::{Batch, Op};"),
        ("simulate/mod.rs", "use crate::modbus::codec; use crate::config::plan::Plan;"),
        ("gateway/mod.rs", "use crate::{broker, config, hub, mapping, modbus, store, uplink};"),
        ("check.rs", "use crate::{config, mapping, modbus};"),
        ("config/plan.rs", "use crate::modbus; fn f(_: modbus::spec::BusSpec) {}"),
        ("uplink/spec.rs", "mod store {} fn f() { store::f(); }"),
    ] {
        assert_eq!(said_of(file, source), Vec::<String>::new(), "{file}");
    }
}

#[test]
fn a_planted_clock_spawn_socket_or_file_is_found_however_it_is_written() {
    for planted in [
        "use std::{fs::File, io::Read};",
        "use std::fs;",
        "use std::time::Instant; fn f() { Instant::now(); }",
        "use std::time as clocks; fn f() { clocks::SystemTime::now(); }",
        "fn f() { let g = std::time::Instant::now; }",
        "use crate::clock::Now; fn f() { Now::read(); }",
        "use crate::clock; fn f() { clock::Now::read(); }",
        "fn f() { tokio::spawn(async {}); }",
        "use tokio::task; fn f() { task::spawn_local(async {}); }",
        "use std::thread::Builder;",
        "use std::net::{SocketAddr, TcpStream};",
        "use tokio::net::TcpListener;",
        "fn f() { tokio::select! { _ = g() => std::thread::spawn(h), } }",
    ] {
        let said = said_of("modbus/schedule.rs", planted);
        assert_eq!(said.len(), 1, "{planted}: {said:?}");
        for file in ["modbus/task.rs", "gateway/run.rs", "main.rs", "store/writer.rs", "config/load.rs"] {
            assert_eq!(said_of(file, planted), Vec::<String>::new(), "{file}: {planted}");
        }
    }
    assert_eq!(said_of("modbus/schedule.rs", "use std::net::{IpAddr, SocketAddr};"), Vec::<String>::new());
}

#[test]
fn tests_beside_the_code_are_exempt_and_their_files_are_known() {
    let tests = "#[cfg(test)]\nmod tests { use crate::broker::acl; fn f() { std::fs::read(\"x\"); } }\n\
                 #[test]\nfn f() { std::time::Instant::now(); }\n";
    assert_eq!(said_of("modbus/plan.rs", tests), Vec::<String>::new());
    assert_eq!(survey("modbus/plan.rs", "#[cfg(test)]\nmod tests;").1, [PathBuf::from("modbus/plan/tests.rs")]);
    assert_eq!(survey("modbus/mod.rs", "#[cfg(test)]\nmod tests;").1, [PathBuf::from("modbus/tests.rs")]);
}

#[test]
fn a_file_that_has_grown_too_long_is_found_and_its_tests_are_not_counted() {
    let line = "const _: () = ();\n";
    let long = line.repeat(FILE_LINES_MAX + 1);
    assert_eq!(said_of("message.rs", &long).len(), 1);
    let tested = line.repeat(FILE_LINES_MAX - 5) + "#[cfg(test)]\nmod tests {\n" + &line.repeat(100) + "}\n";
    assert_eq!(said_of("message.rs", &tested), Vec::<String>::new());
}
