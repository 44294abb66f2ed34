//! What the gateway shows of itself: Prometheus metrics, JSON, retained topics, a page, and its health.

pub mod health;
pub mod metrics;
pub mod page;
pub mod snapshot;
pub mod state;
pub mod task;
pub mod topics;
