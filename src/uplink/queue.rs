//! What an uplink needs of the store: three verbs on its own queue.

use tokio::sync::watch;

use crate::store::{Seq, Stored};

/// One destination's durable queue.
///
/// Futures need not be `Send`: everything runs on one thread.
#[allow(async_fn_in_trait, reason = "the runtime is one thread, so no bound on the futures is wanted")]
pub trait Queue {
    /// The queue's oldest messages with a number above `after`, rising, at most `max_messages` and about `max_bytes` of them,
    /// but at least one where there is one. Empty: there are none.
    async fn read(&self, after: Option<Seq>, max_messages: usize, max_bytes: usize) -> Vec<Stored>;

    /// The destination has these, or will never take them: their places go. A read that begins after this has returned does
    /// not show them.
    async fn deliver(&self, seqs: Vec<Seq>);

    /// The highest number committed for this queue. A read that begins after a number was seen here shows everything up to it.
    fn committed(&self) -> watch::Receiver<Seq>;
}
