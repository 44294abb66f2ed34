//! Topic filters: what a client may read and write, what an uplink forwards and accepts.

use super::Context;
use super::names::shown;
use crate::broker::spec::Access;
use crate::config::diagnostic::{Diagnostic, Place};
use crate::config::reader::Table;
use crate::config::spell;
use crate::config::template::{self, TemplateError};
use crate::hub::topics;

/// `{user}` and `{client}` stay, for the broker to fill in.
pub(super) fn access(table: &Table<'_>, cx: &Context<'_>) -> Access {
    let read = |key| {
        let kept = [("gateway", &*cx.gateway_id), ("user", "{user}"), ("client", "{client}")];
        filters(table, key, &kept, cx)
    };
    Access { subscribe: read("subscribe"), publish: read("publish"), deny: read("deny") }
}

/// The key's filters with `values` filled in.
pub(super) fn filters(table: &Table<'_>, key: &str, values: &[(&str, &str)], cx: &Context<'_>) -> Vec<String> {
    let mut filters = Vec::new();
    for (text, place) in table.texts(key) {
        let Some(filled) = fill(text, values, place, cx) else { continue };
        if !topics::is_valid_filter(&filled) {
            cx.report.push(
                Diagnostic::error(place, format!("`{}` is no topic filter", shown(text)))
                    .expected("+ and # as whole levels, # only as the last, and not an empty text")
                    .help(format!("write, say, `{key} = [\"plant/+/status\", \"plant/#\"]` instead")),
            );
        } else if filters.contains(&filled) {
            cx.report.warning(place, format!("`{}` stands twice in `{key}`", shown(text)), "remove one");
        } else {
            filters.push(filled);
        }
    }
    filters
}

/// The template filled in, or `None` and reported.
pub(super) fn fill(text: &str, values: &[(&str, &str)], place: &Place, cx: &Context<'_>) -> Option<String> {
    match template::expand(text, values) {
        Ok(filled) => Some(filled),
        Err(error) => {
            let known = || values.iter().map(|(name, _)| *name);
            let guess = match &error {
                TemplateError::Unknown(name) => spell::nearest(name, known())
                    .map_or_else(String::new, |near| format!(" (did you mean `{{{near}}}`?)")),
                TemplateError::NotHere(_) | TemplateError::Unclosed | TemplateError::Unopened => String::new(),
            };
            let allowed: Vec<_> = known().map(|name| format!("{{{name}}}")).collect();
            let found = format!("{error}{guess} in `{}`", shown(text));
            cx.report.push(Diagnostic::error(place, found).expected(format!("one of {}", allowed.join(", "))));
            None
        }
    }
}
