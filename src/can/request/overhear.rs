//! Answers to whoever asked: what a log or a mapping's test brings, where nothing is sent.

use std::sync::Arc;
use std::time::Instant;

use super::{Found, Verdict, judge, read};
use crate::can::frame::{CanId, Frame};
use crate::can::isotp::{Form, Progress, Receiver};
use crate::can::spec::{AnswerSpec, CanPoint, Source};

/// Every request of a bus, as if it were always under way.
#[derive(Debug)]
pub(in crate::can) struct Overheard {
    ears: Vec<Ear>,
}

/// One point, and one of those who may answer it.
#[derive(Debug)]
struct Ear {
    index: u32,
    from: CanId,
    request: Arc<[u8]>,
    answer: AnswerSpec,
    receiver: Receiver,
}

impl Overheard {
    pub(in crate::can) fn new(points: &[CanPoint]) -> Self {
        let mut ears = Vec::new();
        for (index, point) in (0u32..).zip(points) {
            let Source::Request(spec) = &point.source else { continue };
            let form = Form { addressing: spec.addressing, padding: spec.padding, fd: spec.fd };
            ears.extend(spec.receive.iter().map(|from| Ear {
                index,
                from: *from,
                request: spec.request.clone(),
                answer: spec.answer,
                receiver: Receiver::new(form),
            }));
        }
        Self { ears }
    }

    pub(in crate::can) fn handle(&mut self, frame: &Frame, now: Instant, found: Found<'_>) {
        for ear in self.ears.iter_mut().filter(|ear| ear.from == frame.id()) {
            let Progress::Message(message) = ear.receiver.handle(frame.data(), now) else { continue };
            match judge(&ear.request, &message) {
                Verdict::Positive => found(ear.index, read(ear.answer, &message)),
                Verdict::Negative(fault) => found(ear.index, Err(fault)),
                Verdict::Pending | Verdict::Foreign => {}
            }
        }
    }
}
