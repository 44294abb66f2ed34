//! From TOML files to a [`plan::Plan`]: every error of every file at once, each with its place and a way to mend it.
//!
//! [`load`] is what `run`, `check` and a reload call. It reads through [`Files`] and [`Environment`], so that everything
//! but the file `load` is pure. `document` parses TOML into a tree of places, `keys` says what may stand in it,
//! `reader` refuses by that, `compile` checks what one key alone does not tell, and fills in the specs.

mod compile;
mod diagnostic;
mod document;
mod keys;
mod load;
pub mod plan;
mod profiles;
mod reader;
mod schema;
mod spell;
pub mod template;
#[cfg(test)]
mod tests;

pub(crate) use compile::host_and_port;
pub use compile::{Outcome, compile, compile_profile};
pub use diagnostic::{Diagnostic, Place, Severity};
pub use load::{Disk, Environment, Files, load};
pub use profiles::{SHIPPED_PROFILES, ShippedProfile};
pub use schema::{SchemaOf, schema};
