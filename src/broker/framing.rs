//! Bytes of a connection become packets, as many at a time as their subscribers can take.

use bytes::Bytes;

use super::api::ConnId;
use super::core::{Broker, CHOKE_BYTES, State};
use super::decode;
use super::packet::{Reason, Version};
use crate::clock::Now;

/// Bytes of packets taken from a connection before what they cause is handed out: much may have come while it was held.
const FRAME_BYTES_AT_ONCE: usize = 128 * 1024;
/// Answers beyond [`CHOKE_BYTES`] for a client that writes and never reads.
const UNREAD_ANSWERS_MAX: usize = 1 << 20;

impl Broker {
    pub(crate) fn bytes(&mut self, now: Now, conn: ConnId, data: Bytes) {
        self.counters.bytes_received += data.len() as u64;
        let max = self.spec.limits.max_packet_bytes as usize;
        let Some(state) = self.conns.get_mut(&conn) else { return };
        state.last_seen = now.mono;
        if !state.held_by.is_empty() {
            // Read before it was told to stop.
            state.input.extend_from_slice(&data);
            return;
        }
        let mut data = data;
        if !state.input.is_empty() || matches!(state.state, State::Checking(_)) {
            state.input.extend_from_slice(&data);
            if matches!(state.state, State::Checking(_)) {
                // Packets may follow CONNECT at once (3.1.4); they wait for its answer, within one packet's bound.
                if state.input.len() > max {
                    self.fail(now, conn, Reason::QuotaExceeded);
                }
                return;
            }
            // While the packet is not all there nothing is moved: a byte at a time costs a byte at a time.
            if matches!(decode::frame_length(&state.input, max), Ok(None)) {
                return;
            }
            data = state.input.split().freeze();
        }
        self.frames(now, conn, data);
    }

    /// Takes every whole packet; what is left waits for more bytes.
    pub(crate) fn frames(&mut self, now: Now, conn: ConnId, mut data: Bytes) {
        let max = self.spec.limits.max_packet_bytes as usize;
        let mut left = FRAME_BYTES_AT_ONCE;
        loop {
            let Some(state) = self.conns.get_mut(&conn) else { return };
            if left == 0 && !data.is_empty() {
                state.input.extend_from_slice(&data);
                self.released.push_back(conn);
                break;
            }
            let version = match state.state {
                State::Open { .. } => Some(state.version),
                State::AwaitConnect => None,
                State::Checking(_) => {
                    state.input.extend_from_slice(&data);
                    return;
                }
            };
            let length = match decode::frame_length(&data, max) {
                Ok(Some(length)) => length,
                Ok(None) => {
                    if !data.is_empty() {
                        state.input.extend_from_slice(&data);
                    }
                    break;
                }
                Err(reason) => return self.fail(now, conn, reason),
            };
            left = left.saturating_sub(length);
            let frame = data.split_to(length);
            match decode::packet(&frame, version) {
                Ok(packet) => self.packet(now, conn, packet),
                Err(reason) => {
                    if version.is_none() && decode::asks_for_v5(&frame) {
                        state.version = Version::V5;
                    }
                    return self.fail(now, conn, reason);
                }
            }
        }
        self.mark_dirty(conn);
        // Answers alone (PINGRESP, PUBACK) must not pile up for a client that only writes.
        let limit = self.spec.limits.max_outbound_bytes.min(UNREAD_ANSWERS_MAX).saturating_add(CHOKE_BYTES);
        if self.conns.get(&conn).is_some_and(|state| state.queued_bytes() > limit) {
            self.counters.slow_disconnects += 1;
            self.fail(now, conn, Reason::QuotaExceeded);
        }
    }
}
