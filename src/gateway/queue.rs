//! The store's queue of one destination, as an uplink wants it.

use tokio::sync::watch;

use crate::store::{DestId, Order, Seq, StoreHandle, Stored};
use crate::uplink::queue::Queue;

#[derive(Clone, Debug)]
pub(super) struct StoreQueue {
    pub(super) store: StoreHandle,
    pub(super) dest: DestId,
}

impl Queue for StoreQueue {
    async fn read(&self, after: Option<Seq>, max_messages: usize, max_bytes: usize) -> Vec<Stored> {
        self.store.read(self.dest, after, max_messages, max_bytes, Order::Oldest).await
    }

    async fn deliver(&self, seqs: Vec<Seq>) {
        self.store.deliver(self.dest, seqs).await;
    }

    fn committed(&self) -> watch::Receiver<Seq> {
        self.store.latest(self.dest)
    }
}
