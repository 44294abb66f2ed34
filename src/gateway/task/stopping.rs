//! A clean stop: in which order the parts end, and how long each may take.

use std::time::Duration;

use tokio::time::timeout;
use tracing::{info, warn};

use super::super::parts;
use super::{Gateway, Receivers};
use crate::clock::Now;

/// The parts of a clean stop; together under the five seconds that the contract gives.
const BUSES_STOP_WITHIN: Duration = Duration::from_millis(1000);
const STORE_FLUSH_WITHIN: Duration = Duration::from_millis(1000);
const UPLINKS_STOP_WITHIN: Duration = Duration::from_millis(1500);
const STORE_CLOSE_WITHIN: Duration = Duration::from_millis(1000);

impl Gateway {
    /// Buses first, so that nothing new comes; then what is left goes to the disk; then everybody is told.
    pub(super) async fn stop(mut self, receivers: &mut Receivers) {
        let now = Now::read();
        info!("stopping");
        let buses = std::mem::take(&mut self.buses);
        let handles = buses.into_values().map(|task| task.handle).collect();
        let drain = async {
            while let Some(event) = receivers.bus.recv().await {
                self.core.bus(now, event);
            }
        };
        tokio::select! {
            () = parts::join(handles, BUSES_STOP_WITHIN) => {}
            () = drain => {}
        }
        while let Ok(event) = receivers.bus.try_recv() {
            self.core.bus(now, event);
        }
        for id in self.core.buses.keys().copied().collect::<Vec<_>>() {
            self.core.remove_bus(now, id);
        }
        let offline = self.topics.presence(false);
        self.core.announce(now, vec![offline]);
        self.act(now);
        if timeout(STORE_FLUSH_WITHIN, self.flush(receivers)).await.is_err() {
            warn!("the disk did not take everything in time; what it did not take was not acknowledged");
        }
        let uplinks = std::mem::take(&mut self.uplinks);
        parts::join(uplinks.into_values().map(|task| task.handle).collect(), UPLINKS_STOP_WITHIN).await;
        if let Some(broker) = &mut self.core.broker {
            broker.shutdown(Now::read());
        }
        self.core.drain(now);
        self.act(now);
        if timeout(STORE_CLOSE_WITHIN, self.close_store(receivers)).await.is_err() {
            warn!("the store did not close in time; it is checked at the next start");
        }
        info!("stopped");
    }

    /// Until the store has said that it has everything.
    async fn flush(&mut self, receivers: &mut Receivers) {
        loop {
            while let Some(batch) = self.core.flush() {
                if self.store.commit(batch).await.is_err() {
                    return;
                }
            }
            if self.core.is_stored() {
                return;
            }
            let Some(event) = receivers.store.recv().await else { return };
            let now = Now::read();
            self.core.store(now, event);
            self.act(now);
        }
    }

    async fn close_store(&mut self, receivers: &mut Receivers) {
        self.flush(receivers).await;
        let store = self.store.clone();
        let drain = async { while receivers.store.recv().await.is_some() {} };
        tokio::join!(store.close(), drain);
    }
}
