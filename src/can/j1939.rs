//! SAE J1939: identifiers taken apart, values that mean "no value", and the transport protocol listened to.
//!
//! The transport is only listened to: the sender's packets are collected, and nothing is ever answered. So a
//! connection (RTS/CTS) between two others is heard as well as a broadcast (BAM).

use std::time::{Duration, Instant};

use super::frame::CanId;
use crate::sample::Fault;

/// Transport protocol, connection management (J1939-21, 5.10.3).
pub const PGN_TP_CM: u32 = 0xEC00;
/// Transport protocol, data transfer.
pub const PGN_TP_DT: u32 = 0xEB00;
/// Everybody.
pub const GLOBAL: u8 = 0xFF;

/// A 29-bit identifier taken apart (J1939-21, 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// 0 to 7, 0 the most urgent.
    pub priority: u8,
    /// 18 bits.
    pub pgn: u32,
    pub source: u8,
    /// [`GLOBAL`] for a group that names none (PDU2).
    pub destination: u8,
}

/// Whether a parameter group names a destination (PDU1: PDU format below 240).
pub fn is_addressed(pgn: u32) -> bool {
    (pgn >> 8) & 0xFF < 240
}

impl Header {
    /// `None` for an 11-bit identifier.
    pub fn of(id: CanId) -> Option<Self> {
        if !id.is_extended() {
            return None;
        }
        let [top, format, specific, source] = id.raw().to_be_bytes();
        let pgn = (id.raw() >> 8) & 0x3FFFF;
        let addressed = format < 240;
        Some(Self {
            priority: top >> 2,
            pgn: if addressed { pgn & 0x3FF00 } else { pgn },
            source,
            destination: if addressed { specific } else { GLOBAL },
        })
    }

    pub fn id(self) -> CanId {
        let specific = if is_addressed(self.pgn) { u32::from(self.destination) } else { self.pgn & 0xFF };
        let raw =
            u32::from(self.priority & 7) << 26 | (self.pgn & 0x3FF00) << 8 | specific << 8 | u32::from(self.source);
        CanId::extended_masked(raw)
    }
}

/// The fault that a raw value stands for (J1939-71, 5.1.4): all ones is "not available", one less "error"; of whole
/// bytes the most significant decides. 0xFB to 0xFD stay values: some parameters use them (gear 0xFB is "park").
pub fn fault(bits: u64, length: u8) -> Option<Fault> {
    let indicator = match length {
        0 | 1 => return None,
        8 | 16 | 24 | 32 | 40 | 48 | 56 | 64 => 0xFF - ((bits >> (length - 8)) & 0xFF),
        _ => (u64::MAX >> (64 - u32::from(length.min(64)))).saturating_sub(bits),
    };
    match indicator {
        0 => Some(Fault::NotAvailable),
        1 => Some(Fault::Error),
        _ => None,
    }
}

/// Messages that are collected at once. J1939 allows each address one broadcast and one connection a destination; 64
/// at their longest are 114 kB.
const SESSIONS_MAX: usize = 64;
const BYTES_MAX: usize = 1785;
const PACKET_BYTES: usize = 7;
/// T1 and T2 are 750 ms and 1250 ms, Th 500 ms: after 1250 ms without a packet a message is given up.
const SILENCE_MAX: Duration = Duration::from_millis(1250);

const CONTROL_RTS: u8 = 16;
const CONTROL_BAM: u8 = 32;
const CONTROL_ABORT: u8 = 255;

/// A message that came in parts, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assembled {
    pub pgn: u32,
    pub source: u8,
    pub destination: u8,
    pub data: Vec<u8>,
}

#[derive(Debug)]
struct Session {
    source: u8,
    destination: u8,
    pgn: u32,
    length: usize,
    data: Vec<u8>,
    /// One bit a packet: a connection may repeat packets and send them in any order the receiver asks for.
    have: [u64; 4],
    packets: u8,
    missing: u8,
    heard: Instant,
}

/// Puts the transport protocol's packets together. Bounded in memory (64 messages of 1785 bytes) and in time.
#[derive(Debug, Default)]
pub struct Transport {
    sessions: Vec<Session>,
    /// Messages that were begun and not completed, and packets that belong to none.
    pub discarded: u64,
}

impl Transport {
    /// A frame of [`PGN_TP_CM`] or [`PGN_TP_DT`]; any other is ignored. `wanted` says whether somebody waits for the
    /// group: others are not collected.
    pub fn handle(
        &mut self,
        header: Header,
        data: &[u8],
        now: Instant,
        wanted: impl Fn(u32, u8) -> bool,
    ) -> Option<Assembled> {
        let Ok(data) = <[u8; 8]>::try_from(data) else { return None };
        match header.pgn {
            PGN_TP_CM => {
                self.control(header, data, now, wanted);
                None
            }
            PGN_TP_DT => self.packet(header, data, now),
            _ => None,
        }
    }

    fn control(&mut self, header: Header, data: [u8; 8], now: Instant, wanted: impl Fn(u32, u8) -> bool) {
        let [control, low, high, packets, _, pgn0, pgn1, pgn2] = data;
        let pgn = u32::from_le_bytes([pgn0, pgn1, pgn2, 0]);
        match control {
            CONTROL_RTS | CONTROL_BAM => {}
            // Either side may give up: the receiver's abort comes from the other direction.
            CONTROL_ABORT => {
                self.drop_session(header.source, header.destination);
                self.drop_session(header.destination, header.source);
                return;
            }
            _ => return,
        }
        if (control == CONTROL_BAM) != (header.destination == GLOBAL) {
            return;
        }
        self.drop_session(header.source, header.destination);
        let length = usize::from(u16::from_le_bytes([low, high]));
        let plausible = (9..=BYTES_MAX).contains(&length) && usize::from(packets) == length.div_ceil(PACKET_BYTES);
        if !plausible || pgn > 0x3FFFF || !wanted(pgn, header.source) {
            return;
        }
        self.expire(now);
        if self.sessions.len() == SESSIONS_MAX
            && let Some(oldest) = (0..self.sessions.len()).min_by_key(|at| self.sessions[*at].heard)
        {
            self.sessions.swap_remove(oldest);
            self.discarded += 1;
        }
        self.sessions.push(Session {
            source: header.source,
            destination: header.destination,
            pgn,
            length,
            data: vec![0xFF; usize::from(packets) * PACKET_BYTES],
            have: [0; 4],
            packets,
            missing: packets,
            heard: now,
        });
    }

    fn packet(&mut self, header: Header, data: [u8; 8], now: Instant) -> Option<Assembled> {
        let at = self.find(header.source, header.destination)?;
        let session = &mut self.sessions[at];
        let [sequence, payload @ ..] = data;
        if now.saturating_duration_since(session.heard) > SILENCE_MAX || sequence == 0 || sequence > session.packets {
            self.sessions.swap_remove(at);
            self.discarded += 1;
            return None;
        }
        session.heard = now;
        let place = usize::from(sequence - 1);
        let (word, bit) = (place / 64, 1u64 << (place % 64));
        if session.have[word] & bit == 0 {
            session.have[word] |= bit;
            session.missing -= 1;
        }
        session.data[place * PACKET_BYTES..][..PACKET_BYTES].copy_from_slice(&payload);
        if session.missing > 0 {
            return None;
        }
        let mut whole = self.sessions.swap_remove(at);
        whole.data.truncate(whole.length);
        Some(Assembled { pgn: whole.pgn, source: whole.source, destination: whole.destination, data: whole.data })
    }

    fn find(&self, source: u8, destination: u8) -> Option<usize> {
        self.sessions.iter().position(|session| session.source == source && session.destination == destination)
    }

    fn drop_session(&mut self, source: u8, destination: u8) {
        if let Some(at) = self.find(source, destination) {
            self.sessions.swap_remove(at);
            self.discarded += 1;
        }
    }

    fn expire(&mut self, now: Instant) {
        let before = self.sessions.len();
        self.sessions.retain(|session| now.saturating_duration_since(session.heard) <= SILENCE_MAX);
        self.discarded += u64::try_from(before - self.sessions.len()).unwrap_or(0);
    }
}

#[cfg(test)]
mod tests;
