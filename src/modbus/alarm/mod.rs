//! A timer that does not round up to the millisecond, for the quiet time between frames.

pub mod task;
