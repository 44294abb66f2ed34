//! From frames to readings: which points a frame answers, and what its bits say.

use std::collections::HashMap;
use std::time::Instant;

use super::frame::{CanId, Frame};
use super::j1939::{self, Header, PGN_TP_CM, PGN_TP_DT, Transport};
use super::signal::Layout;
use super::spec::{CanPoint, FrameMatch, Selector, Source};
use crate::sample::{Fault, Value};

/// One signal of a message, ready to be taken out.
#[derive(Debug)]
struct Wanted {
    index: u32,
    layout: Layout,
    when: Vec<Selector>,
    /// `None`: whoever sends the parameter group.
    source: Option<u8>,
}

/// Points by the frames that carry them.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// Standard identifiers by their number: place in `groups` plus one, 0 for none.
    standard: Vec<u16>,
    extended: HashMap<CanId, usize>,
    pgns: HashMap<u32, usize>,
    groups: Vec<Vec<Wanted>>,
    transport: Transport,
    /// Frames that were too short for one of their signals.
    short: u64,
}

impl Decoder {
    pub(super) fn new(points: &[CanPoint]) -> Self {
        let mut decoder = Self { standard: vec![0; 0x800], ..Self::default() };
        for (index, point) in (0u32..).zip(points) {
            let Source::Signal(signal) = &point.source else { continue };
            let source = match signal.from {
                FrameMatch::Pgn { source, .. } => source,
                FrameMatch::Id(_) => None,
            };
            let wanted = Wanted { index, layout: signal.layout, when: signal.when.clone(), source };
            let group = decoder.group(signal.from);
            decoder.groups[group].push(wanted);
        }
        decoder
    }

    fn group(&mut self, from: FrameMatch) -> usize {
        let next = self.groups.len();
        let group = match from {
            FrameMatch::Id(id) if id.is_extended() => *self.extended.entry(id).or_insert(next),
            FrameMatch::Id(id) => {
                // At most 2,048 groups of standard identifiers, so that a place always fits.
                let slot = &mut self.standard[usize::try_from(id.raw()).unwrap_or(0)];
                match usize::from(*slot).checked_sub(1) {
                    Some(known) => known,
                    None => {
                        let Ok(place) = u16::try_from(next + 1) else { return self.far_group(id) };
                        *slot = place;
                        next
                    }
                }
            }
            FrameMatch::Pgn { pgn, .. } => *self.pgns.entry(pgn).or_insert(next),
        };
        self.grown(group)
    }

    /// More than 65,534 groups: the rest of the standard identifiers are found by hash too.
    fn far_group(&mut self, id: CanId) -> usize {
        let next = self.groups.len();
        let group = *self.extended.entry(id).or_insert(next);
        self.grown(group)
    }

    fn grown(&mut self, group: usize) -> usize {
        if group == self.groups.len() {
            self.groups.push(Vec::new());
        }
        group
    }

    /// Calls `found` for every point that the frame answers.
    pub(super) fn handle(&mut self, frame: &Frame, now: Instant, mut found: impl FnMut(u32, Result<Value, Fault>)) {
        let id = frame.id();
        let by_id = if id.is_extended() {
            self.extended.get(&id).copied()
        } else {
            let slot = self.standard[usize::try_from(id.raw()).unwrap_or(0)];
            usize::from(slot).checked_sub(1).or_else(|| self.extended.get(&id).copied())
        };
        if let Some(group) = by_id {
            self.short += take(&self.groups[group], frame.data(), None, &mut found);
        }
        if self.pgns.is_empty() {
            return;
        }
        let Some(header) = Header::of(id) else { return };
        if header.pgn == PGN_TP_CM || header.pgn == PGN_TP_DT {
            let pgns = &self.pgns;
            if let Some(whole) = self.transport.handle(header, frame.data(), now, |pgn, _| pgns.contains_key(&pgn))
                && let Some(group) = self.pgns.get(&whole.pgn)
            {
                self.short += take(&self.groups[*group], &whole.data, Some(whole.source), &mut found);
            }
        } else if let Some(group) = self.pgns.get(&header.pgn) {
            self.short += take(&self.groups[*group], frame.data(), Some(header.source), &mut found);
        }
    }

    /// Frames that were too short, and messages that did not arrive whole.
    pub(super) fn discarded(&self) -> u64 {
        self.short + self.transport.discarded
    }
}

/// `sender` only for a J1939 message. Returns how many signals the data was too short for.
fn take(group: &[Wanted], data: &[u8], sender: Option<u8>, found: &mut impl FnMut(u32, Result<Value, Fault>)) -> u64 {
    let mut short = 0;
    for wanted in group {
        if wanted.source.is_some() && wanted.source != sender {
            continue;
        }
        if !wanted.when.iter().all(|selector| selects(selector, data)) {
            continue;
        }
        let Some(bits) = wanted.layout.bits(data) else {
            short += 1;
            continue;
        };
        let fault = sender.and_then(|_| j1939::fault(bits, wanted.layout.length()));
        found(wanted.index, fault.map_or_else(|| Ok(wanted.layout.value(bits)), Err));
    }
    short
}

pub(super) fn selects(selector: &Selector, data: &[u8]) -> bool {
    let Some(value) = selector.layout.bits(data) else { return false };
    selector.ranges.iter().any(|(low, high)| (*low..=*high).contains(&value))
}
