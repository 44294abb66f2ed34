//! A bus while its link is there.

pub(super) mod task;
