//! From TOML files to a [`plan::Plan`]: every error of every file at once, each with its place and a way to mend it.

pub mod plan;
