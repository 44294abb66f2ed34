//! `fieldgate check`: every mistake of every file, the plan with each bus's load, and the mappings' own tests.

pub mod cases;
