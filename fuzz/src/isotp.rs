//! ISO-TP both ways: frames into a receiver, flow control into a sender.

use std::time::Duration;

use fieldgate::can::isotp::{Form, Progress, Receiver, Sender};
use fieldgate::can::spec::Addressing;
use fieldgate::clock::Now;

use super::Pieces;

pub fn run(data: &[u8]) {
    let Some((&mode, rest)) = data.split_first() else { return };
    let addressing =
        if mode & 1 == 0 { Addressing::Normal } else { Addressing::Extended { source: 0xF1, target: 0x55 } };
    let form = Form { addressing, padding: (mode & 2 != 0).then_some(0xCC), fd: mode & 4 != 0 };
    let mut now = Now::read();
    let mut receiver = Receiver::new(form);
    let mut sender = Sender::new(form, vec![0x22; 1 + usize::from(mode) * 16].into()).ok();
    for (ms, frame) in Pieces(rest) {
        now = now.after(Duration::from_millis(u64::from(ms)));
        receiver.handle_timeout(now.mono);
        if let Progress::Message(message) = receiver.handle(frame, now.mono) {
            assert!((1..=4095).contains(&message.len()));
        }
        let Some(sender) = &mut sender else { continue };
        for _ in 0..8 {
            if sender.poll_transmit(now.mono).is_none() {
                break;
            }
        }
        sender.handle(frame, now.mono);
        let _ = (sender.deadline(), sender.result());
    }
}
