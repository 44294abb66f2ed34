//! Answers that may still come: without transaction numbers only time tells a late answer from the next one.
//!
//! A request that brought nothing leaves a debt. While it stands, nothing goes to the device whose answer could be
//! taken for the late one: only the same request again and, once that was answered, nothing of the same function
//! code. Time alone pays: an answer that is overheard may be a foreign one, and only teaches how late this device
//! can be.

use std::time::{Duration, Instant};

use super::frame::Heard;
use super::pdu::{self, Request};

/// However late a device was, it is not waited for longer.
const LATENESS_MAX: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Debt {
    request: Request,
    since: Instant,
    until: Instant,
    /// It was asked again, and one answer was taken.
    answered: bool,
}

/// What one device owes.
#[derive(Debug, Default)]
pub struct Owed {
    debts: Vec<Debt>,
    /// The latest answer heard of late, from its request.
    lateness: Duration,
}

impl Owed {
    /// Whether this request may go out as far as late answers are concerned.
    pub fn is_free(&self, request: &Request, now: Instant) -> bool {
        self.debts
            .iter()
            .filter(|debt| debt.until > now && code(&debt.request) == code(request))
            .all(|debt| !debt.answered && debt.request == *request)
    }

    /// The next moment after `now` at which time pays a debt.
    pub fn until(&self, now: Instant) -> Option<Instant> {
        self.debts.iter().map(|debt| debt.until).filter(|until| *until > now).min()
    }

    /// A request sent at `sent` brought no answer of its own; one may still come. `patience`: how long at least that
    /// is waited for.
    pub fn failed(&mut self, request: &Request, sent: Instant, patience: Duration, now: Instant) {
        if self.debts.iter().any(|debt| debt.until <= now) {
            self.debts.retain(|debt| debt.until > now);
            self.lateness = self.lateness * 3 / 4;
        }
        let until = now + self.patience(patience);
        if let Some(debt) = self.debts.iter_mut().find(|debt| debt.request == *request) {
            debt.until = until;
            debt.answered = false;
        } else {
            self.debts.push(Debt { request: request.clone(), since: sent, until, answered: false });
        }
    }

    /// A request was answered: where it had been asked before, the answer may have been to that one.
    pub fn answered(&mut self, request: &Request, patience: Duration, now: Instant) {
        let until = now + self.patience(patience);
        if let Some(debt) = self.debts.iter_mut().find(|debt| debt.until > now && debt.request == *request) {
            debt.until = until;
            debt.answered = true;
        }
    }

    /// A frame of this device came that nobody waited for.
    pub fn overheard(&mut self, heard: &Heard, now: Instant) {
        let owed = |debt: &&mut Debt| debt.until > now && pdu::read_answer(&debt.request, &heard.pdu).is_ok();
        if let Some(debt) = self.debts.iter_mut().find(owed) {
            self.lateness = self.lateness.max(now.saturating_duration_since(debt.since)).min(LATENESS_MAX);
            debt.until = debt.until.max(now + self.lateness);
        }
    }

    pub fn clear(&mut self) {
        self.debts.clear();
    }

    fn patience(&self, least: Duration) -> Duration {
        least.max(self.lateness * 2)
    }
}

fn code(request: &Request) -> u8 {
    request.function_code().value()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Now;

    const PATIENCE: Duration = Duration::from_millis(400);
    const A: Request = Request::ReadHoldingRegisters(0, 1);
    const B: Request = Request::ReadHoldingRegisters(500, 1);
    const OTHER_TABLE: Request = Request::ReadInputRegisters(0, 1);

    fn answer(request: &Request) -> Heard {
        Heard { unit: 1, pdu: vec![request.function_code().value(), 2, 0, 7], start: 0, end: 7 }
    }

    #[test]
    fn while_an_answer_is_owed_only_the_same_request_or_another_function_is_free() {
        let now = Now::read().mono;
        let mut owed = Owed::default();
        assert!(owed.is_free(&A, now) && owed.until(now).is_none());
        owed.failed(&A, now, PATIENCE, now);
        assert!(owed.is_free(&A, now) && !owed.is_free(&B, now) && owed.is_free(&OTHER_TABLE, now));
        owed.answered(&A, PATIENCE, now);
        assert!(!owed.is_free(&A, now) && !owed.is_free(&B, now) && owed.is_free(&OTHER_TABLE, now));
        let later = owed.until(now).unwrap();
        assert!(owed.is_free(&A, later) && owed.is_free(&B, later));
    }

    #[test]
    fn asking_the_same_again_and_again_never_puts_the_others_off_for_ever() {
        let mut now = Now::read().mono;
        let mut owed = Owed::default();
        owed.failed(&A, now, PATIENCE, now);
        let end = now + PATIENCE * 3;
        while !owed.is_free(&B, now) {
            assert!(now < end);
            if owed.is_free(&A, now) {
                owed.answered(&A, PATIENCE, now);
            }
            now += Duration::from_millis(10);
        }
    }

    #[test]
    fn late_answers_teach_how_long_to_wait() {
        let now = Now::read().mono;
        let mut owed = Owed::default();
        owed.failed(&A, now, PATIENCE, now);
        let late = now + PATIENCE * 3 / 4;
        owed.overheard(&answer(&OTHER_TABLE), late);
        assert_eq!(owed.until(now), Some(now + PATIENCE));
        owed.overheard(&answer(&A), late);
        assert_eq!(owed.until(now), Some(late + PATIENCE * 3 / 4));
        let again = now + PATIENCE * 10;
        owed.failed(&A, again, PATIENCE, again);
        assert!(owed.until(again).unwrap() > again + PATIENCE);
    }
}
