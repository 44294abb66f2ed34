//! What may stand only once over all files: names, topics, addresses to listen on.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::config::diagnostic::{Place, Report};
use crate::config::spell;
use crate::hub::topics;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum NameOf {
    Bus,
    SerialLine,
    Device,
    Uplink,
    User,
}

/// The first place of each name.
#[derive(Default)]
pub(super) struct Names {
    taken: RefCell<BTreeMap<(NameOf, String), Place>>,
    listeners: RefCell<BTreeMap<SocketAddr, Place>>,
}

impl Names {
    pub(super) fn claim(&self, of: NameOf, name: &str, place: &Place, report: &Report) {
        let what = match of {
            NameOf::Bus => "bus",
            NameOf::SerialLine => "bus on",
            NameOf::Device => "device",
            NameOf::Uplink => "uplink",
            NameOf::User => "user",
        };
        let mend = match of {
            NameOf::SerialLine => "put the devices of both under one `[[modbus]]`",
            NameOf::Bus | NameOf::Device | NameOf::Uplink | NameOf::User => "give one of them another name",
        };
        if let Some(first) = self.taken.borrow().get(&(of, name.to_owned())) {
            report.error(place, format!("a second {what} `{name}`; the first is at {first}"), mend);
            return;
        }
        self.taken.borrow_mut().insert((of, name.to_owned()), place.clone());
    }

    pub(super) fn has(&self, of: NameOf, name: &str) -> bool {
        self.taken.borrow().contains_key(&(of, name.to_owned()))
    }

    /// An address to listen on.
    pub(super) fn claim_bind(&self, bind: SocketAddr, place: &Place, report: &Report) {
        let mut listeners = self.listeners.borrow_mut();
        let clash = listeners.iter().find(|(other, _)| {
            let same_family = other.is_ipv4() == bind.is_ipv4();
            let overlap = other.ip() == bind.ip() || other.ip().is_unspecified() || bind.ip().is_unspecified();
            // Port 0 is any free port.
            bind.port() != 0 && other.port() == bind.port() && same_family && overlap
        });
        if let Some((other, first)) = clash {
            let found = format!("{bind} is in use by {other} at {first}");
            report.error(place, found, "give one of them another port");
            return;
        }
        listeners.insert(bind, place.clone());
    }
}

/// Which topics the gateway itself publishes and listens on, and where the point stands that does.
#[derive(Default)]
pub(super) struct Topics {
    taken: RefCell<BTreeMap<String, Place>>,
    /// Those that samples go to.
    samples: RefCell<Vec<String>>,
}

impl Topics {
    /// Takes the topic of a point, and where it is writable those of its commands and results.
    pub(super) fn claim(&self, topic: &str, writable: bool, place: &Place, report: &Report) {
        self.samples.borrow_mut().push(topic.to_owned());
        let suffixes: &[&str] = if writable { &["", "/set", "/set/result"] } else { &[""] };
        for suffix in suffixes {
            let topic = format!("{topic}{suffix}");
            if let Some(first) = self.taken.borrow().get(&topic) {
                let found = format!("the topic `{topic}` is also that of the point at {first}");
                report.error(place, found, "give one of them another name, or put {device} and {point} into `topic`");
                return;
            }
            self.taken.borrow_mut().insert(topic, place.clone());
        }
    }

    pub(super) fn has(&self, topic: &str) -> bool {
        self.samples.borrow().iter().any(|taken| taken == topic)
    }

    /// ` (did you mean …?)`, or nothing.
    pub(super) fn guess(&self, topic: &str) -> String {
        let samples = self.samples.borrow();
        spell::did_you_mean(topic, samples.iter().map(String::as_str))
    }
}

/// Reports what a topic to publish on may not be; `false` where it cannot be used.
pub(super) fn check_topic(topic: &str, gateway_id: &str, place: &Place, report: &Report) -> bool {
    let own = format!("fieldgate/{gateway_id}");
    let shown = shown(topic);
    let (found, mend) = if topic.is_empty() || !topics::is_valid_topic(&format!("{topic}/set/result")) {
        let found = format!("`{shown}` is no topic to publish on");
        (found, "write one without + and #, and of at most 65,524 bytes".to_owned())
    } else if topic.starts_with('$') {
        (
            format!("the topic `{shown}` begins with `$`"),
            "write another first level: `$` is the broker's own".to_owned(),
        )
    } else if topic == own || topic.starts_with(&format!("{own}/")) {
        let found = format!("the topic `{shown}` lies under `{own}/`, which is the gateway's own");
        (found, "write another first level".to_owned())
    } else {
        return true;
    };
    report.error(place, found, mend);
    false
}

/// As much of it as a message bears.
pub(super) fn shown(text: &str) -> String {
    const CHARS: usize = 80;
    if text.chars().count() <= CHARS {
        text.to_owned()
    } else {
        text.chars().take(CHARS).chain("…".chars()).collect()
    }
}
