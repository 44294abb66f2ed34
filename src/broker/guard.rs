//! Passwords: who was right lately, and how long a guesser waits.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::spec::UserSpec;

/// Right answers remembered; with more than this the memory starts anew, and each client costs one verification again.
const RIGHT_MAX: usize = 1024;
/// Guessers remembered. Beyond it the ones whose wait is over go first.
const WRONG_MAX: usize = 4096;
/// A wrong password costs its address this much before its next check, doubling to the maximum.
const ADDRESS_DELAY: Duration = Duration::from_millis(250);
const ADDRESS_DELAY_MAX: Duration = Duration::from_secs(8);
/// And its user name this much, so that many addresses together gain little and the real user is not locked out.
const USER_DELAY: Duration = Duration::from_millis(100);
const USER_DELAY_MAX: Duration = Duration::from_secs(1);
/// After this long without a wrong password all is forgiven.
const FORGIVEN_AFTER: Duration = Duration::from_secs(600);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Suspect {
    Address(IpAddr),
    User(Arc<str>),
}

#[derive(Debug)]
struct Record {
    failures: u32,
    free_at: Instant,
    last: Instant,
}

#[derive(Debug, Default)]
pub(crate) struct Guard {
    keys: (RandomState, RandomState),
    right: HashMap<(u64, u64), ()>,
    wrong: HashMap<Suspect, Record>,
}

impl Guard {
    /// Forgets who was right: users may have changed.
    pub(crate) fn forget(&mut self) {
        self.right.clear();
    }

    /// Whether this very password was verified against this very hash before.
    pub(crate) fn knows(&self, user: &UserSpec, password: &[u8]) -> bool {
        self.right.contains_key(&self.fingerprint(user, password))
    }

    /// When the password may be checked: now, unless the address or the user guessed wrong before.
    pub(crate) fn check_at(&self, now: Instant, address: IpAddr, user: &Arc<str>) -> Instant {
        [Suspect::Address(address), Suspect::User(user.clone())]
            .iter()
            .filter_map(|suspect| self.wrong.get(suspect))
            .map(|record| record.free_at)
            .fold(now, Instant::max)
    }

    pub(crate) fn right(&mut self, address: IpAddr, user: &UserSpec, password: &[u8]) {
        if self.right.len() >= RIGHT_MAX {
            self.right.clear();
        }
        self.right.insert(self.fingerprint(user, password), ());
        self.wrong.remove(&Suspect::Address(address));
    }

    pub(crate) fn wrong(&mut self, now: Instant, address: IpAddr, user: &Arc<str>) {
        self.punish(now, Suspect::Address(address), ADDRESS_DELAY, ADDRESS_DELAY_MAX);
        self.punish(now, Suspect::User(user.clone()), USER_DELAY, USER_DELAY_MAX);
    }

    fn punish(&mut self, now: Instant, suspect: Suspect, first: Duration, most: Duration) {
        if self.wrong.len() >= WRONG_MAX {
            self.wrong.retain(|_, record| record.free_at > now);
            if self.wrong.len() >= WRONG_MAX {
                self.wrong.clear();
            }
        }
        let record = self.wrong.entry(suspect).or_insert(Record { failures: 0, free_at: now, last: now });
        if now.saturating_duration_since(record.last) > FORGIVEN_AFTER {
            record.failures = 0;
        }
        let delay = first.saturating_mul(1 << record.failures.min(10)).min(most);
        record.failures = record.failures.saturating_add(1);
        record.last = now;
        // Counted from the end of the wait before: parallel guesses wait in line.
        record.free_at = record.free_at.max(now) + delay;
    }

    /// 128 bits under keys that nobody outside this process has; the password itself is not kept.
    fn fingerprint(&self, user: &UserSpec, password: &[u8]) -> (u64, u64) {
        let material = (&user.name, &user.password_hash, password);
        (self.keys.0.hash_one(material), self.keys.1.hash_one(material))
    }
}

#[cfg(test)]
mod tests {
    use super::super::spec::Access;
    use super::*;
    use crate::clock::Now;

    #[test]
    fn a_guesser_waits_longer_each_time_and_another_address_hardly() {
        let start = Now::read().mono;
        let mut guard = Guard::default();
        let (bad, good) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let user: Arc<str> = "ann".into();
        assert_eq!(guard.check_at(start, bad, &user), start);
        let mut now = start;
        let mut waits = Vec::new();
        for _ in 0..7 {
            guard.wrong(now, bad, &user);
            let next = guard.check_at(now, bad, &user);
            waits.push(next - now);
            now = next;
        }
        assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]) && waits[6] == ADDRESS_DELAY_MAX, "{waits:?}");
        let other: Arc<str> = "bob".into();
        assert_eq!(guard.check_at(start, good, &other), start);
        assert!(guard.check_at(now, good, &user) - now <= USER_DELAY_MAX);
    }

    #[test]
    fn a_right_password_is_known_until_its_hash_changes() {
        let mut guard = Guard::default();
        let mut user = UserSpec { name: "ann".into(), password_hash: Some("h1".into()), access: Access::default() };
        guard.right("10.0.0.1".parse().unwrap(), &user, b"pw");
        assert!(guard.knows(&user, b"pw") && !guard.knows(&user, b"pw2"));
        user.password_hash = Some("h2".into());
        assert!(!guard.knows(&user, b"pw"));
    }
}
