//! J1939 transport: announcements and packets of many senders at once.

use std::time::Duration;

use fieldgate::can::frame::CanId;
use fieldgate::can::j1939::{Header, Transport, fault};
use fieldgate::clock::Now;

use super::Pieces;

pub fn run(data: &[u8]) {
    let mut now = Now::read();
    let mut transport = Transport::default();
    for (ms, piece) in Pieces(data) {
        now = now.after(Duration::from_millis(u64::from(ms)));
        let Some((id, frame)) = piece.split_at_checked(4) else { continue };
        let word = u32::from_be_bytes([id[0], id[1], id[2], id[3]]);
        let Some(id) = CanId::extended(word & 0x1FFF_FFFF) else { continue };
        let Some(header) = Header::of(id) else { continue };
        assert_eq!(header.id(), id);
        if let Some(whole) = transport.handle(header, frame, now.mono, |_, _| true) {
            assert!((9..=1785).contains(&whole.data.len()), "{} bytes", whole.data.len());
        }
        let _ = fault(u64::from(word), (word % 65) as u8);
    }
}
