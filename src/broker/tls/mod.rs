//! Certificates of a listener, and who a client's certificate says it is.

pub(crate) mod task;
