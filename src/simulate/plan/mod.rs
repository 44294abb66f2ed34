//! Stands in for the devices of a whole plan.

pub mod task;
