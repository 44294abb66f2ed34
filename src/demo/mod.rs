//! `fieldgate demo`: the whole gateway on devices that are not there, in a temporary folder.

mod screen;
pub mod task;
