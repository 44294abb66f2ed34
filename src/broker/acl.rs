//! Who may do what: an [`Access`] with its placeholders filled in for one client.

use std::sync::Arc;

use super::packet::Reason;
use super::spec::Access;
use crate::hub::topics::{covers, filter_matches, is_valid_filter};

/// The rules of one session. Denied by default; `deny` wins over all.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Rules {
    subscribe: Vec<String>,
    publish: Vec<String>,
    deny: Vec<String>,
    /// A `deny` filter could not be filled in: nobody knows what it would have covered, so everything is denied.
    deny_all: bool,
    /// `fieldgate/{gateway}/`.
    own: Arc<str>,
}

impl Rules {
    /// `own` is the prefix of topics that are the gateway's alone. `user` is `None` for an anonymous client.
    pub(crate) fn new(access: &Access, user: Option<&str>, client: &str, own: &Arc<str>) -> Self {
        let fill = |filters: &[String]| filters.iter().filter_map(|filter| expand(filter, user, client)).collect();
        let deny: Vec<String> = fill(&access.deny);
        Self {
            subscribe: fill(&access.subscribe),
            publish: fill(&access.publish),
            deny_all: deny.len() != access.deny.len(),
            deny,
            own: own.clone(),
        }
    }

    /// Whether the client may publish to this valid topic.
    pub(crate) fn may_publish(&self, topic: &str) -> bool {
        !topic.starts_with('$')
            && !topic.starts_with(&*self.own)
            && !self.denied(topic)
            && self.publish.iter().any(|filter| filter_matches(filter, topic))
    }

    /// Whether the whole of this valid filter may be subscribed to, but for denied topics, which are withheld on delivery.
    pub(crate) fn may_subscribe(&self, filter: &str) -> bool {
        self.subscribe(filter).is_ok()
    }

    /// [`Rules::may_subscribe`] with the reason for SUBACK. What is denied by name is refused without one: nobody is told that it is there.
    pub(crate) fn subscribe(&self, filter: &str) -> Result<(), Reason> {
        if self.deny_all || self.deny.iter().any(|denied| covers(denied, filter)) {
            return Err(Reason::UnspecifiedError);
        }
        if self.subscribe.iter().any(|allowed| covers(allowed, filter)) { Ok(()) } else { Err(Reason::NotAuthorized) }
    }

    /// Whether a message on this topic may reach the client through a subscription that was granted.
    pub(crate) fn may_receive(&self, topic: &str) -> bool {
        !self.denied(topic)
    }

    fn denied(&self, topic: &str) -> bool {
        self.deny_all || self.deny.iter().any(|filter| filter_matches(filter, topic))
    }
}

/// `None`: the filter stands for nothing, because a value is missing or would widen it.
fn expand(filter: &str, user: Option<&str>, client: &str) -> Option<String> {
    let mut expanded = String::with_capacity(filter.len());
    let mut rest = filter;
    while let Some(at) = rest.find('{') {
        expanded.push_str(&rest[..at]);
        let (value, after) = if let Some(after) = rest[at..].strip_prefix("{user}") {
            (user?, after)
        } else if let Some(after) = rest[at..].strip_prefix("{client}") {
            (client, after)
        } else {
            expanded.push('{');
            rest = &rest[at + 1..];
            continue;
        };
        if value.is_empty() || value.contains(['+', '#', '/', '\0', '$']) {
            return None;
        }
        expanded.push_str(value);
        rest = after;
    }
    expanded.push_str(rest);
    is_valid_filter(&expanded).then_some(expanded)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hub::topics::is_valid_topic;

    fn rules(access: &Access, user: Option<&str>, client: &str) -> Rules {
        Rules::new(access, user, client, &Arc::from("fieldgate/pi-1/"))
    }

    fn access(subscribe: &[&str], publish: &[&str], deny: &[&str]) -> Access {
        let own = |filters: &[&str]| filters.iter().map(|&filter| filter.to_owned()).collect();
        Access { subscribe: own(subscribe), publish: own(publish), deny: own(deny) }
    }

    #[test]
    fn a_name_with_wildcards_widens_nothing() {
        let access = access(&["home/{user}/#", "dev/{client}"], &["in/{client}/+"], &[]);
        for hostile in ["+", "#", "a/b", "", "$SYS"] {
            let rules = rules(&access, Some(hostile), hostile);
            assert!(!rules.may_subscribe("home/ann/#") && !rules.may_subscribe("home/+/#"), "{hostile}");
            assert!(!rules.may_subscribe("dev/x") && !rules.may_publish("in/x/y"), "{hostile}");
        }
        let rules = rules(&access, Some("ann"), "{user}");
        assert!(rules.may_subscribe("home/ann/x/#") && !rules.may_subscribe("home/bob/#"));
        assert!(rules.may_publish("in/{user}/y"), "a value is not filled in again");
    }

    #[test]
    fn what_is_denied_is_withheld_while_the_wider_subscription_is_granted() {
        let rules = rules(&access(&["plant/#"], &["#"], &["plant/secret/#"]), Some("ann"), "c");
        assert!(rules.may_subscribe("plant/#") && rules.may_subscribe("plant/+/x"));
        assert!(!rules.may_subscribe("plant/secret/#") && !rules.may_subscribe("plant/secret/a"));
        assert!(!rules.may_receive("plant/secret/a") && rules.may_receive("plant/open"));
        assert!(!rules.may_publish("plant/secret/a") && rules.may_publish("plant/open"));
    }

    #[test]
    fn a_refused_subscription_says_why_unless_its_topic_is_denied() {
        let rules = rules(&access(&["plant/#"], &[], &["plant/secret/#"]), Some("ann"), "c");
        assert_eq!(rules.subscribe("other/#"), Err(Reason::NotAuthorized));
        assert_eq!(rules.subscribe("plant/secret/a"), Err(Reason::UnspecifiedError));
        assert_eq!(rules.subscribe("plant/open"), Ok(()));
    }

    #[test]
    fn a_denial_that_cannot_be_filled_in_denies_everything() {
        let rules = rules(&access(&["#"], &["#"], &["private/{user}/#"]), None, "c");
        assert!(!rules.may_publish("a") && !rules.may_subscribe("a") && !rules.may_receive("a"));
    }

    #[test]
    fn nobody_publishes_to_the_gateway_s_own_topics_or_to_sys() {
        let rules = rules(&access(&[], &["#", "fieldgate/#", "$SYS/#"], &[]), Some("root"), "c");
        assert!(!rules.may_publish("fieldgate/pi-1/status") && !rules.may_publish("$SYS/broker/x"));
        assert!(rules.may_publish("fieldgate/other/x"));
    }

    fn level() -> impl Strategy<Value = &'static str> {
        prop_oneof![Just("a"), Just("b"), Just(""), Just("$s"), Just("+")]
    }

    fn filter() -> impl Strategy<Value = String> {
        (prop::collection::vec(level(), 0..4), any::<bool>())
            .prop_map(|(mut levels, hash)| {
                if hash {
                    levels.push("#");
                }
                levels.join("/")
            })
            .prop_filter("valid", |filter| is_valid_filter(filter))
    }

    /// Every valid topic of few levels and few names; `zz` stands in no filter.
    fn topics() -> Vec<String> {
        let names = ["a", "b", "", "$s", "zz"];
        let mut all: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut last = all.clone();
        for _ in 0..3 {
            last = last.iter().flat_map(|stem| names.iter().map(move |name| format!("{stem}/{name}"))).collect();
            all.extend_from_slice(&last);
        }
        all.retain(|topic| is_valid_topic(topic));
        all
    }

    #[test]
    fn a_wildcard_that_stands_for_any_first_level_covers_everything_but_dollar_topics() {
        for (outer, inner, covered) in [
            ("+/#", "#", true),
            ("#", "+/#", true),
            ("+/+/#", "/#", true),
            ("/+/#", "/#", true),
            ("+/+/#", "a/#", false),
            ("+/+/#", "#", false),
            ("#", "$SYS/#", false),
            ("+/#", "$SYS/a", false),
            ("$SYS/#", "$SYS/+/x", true),
        ] {
            assert_eq!(covers(outer, inner), covered, "{outer} {inner}");
        }
    }

    proptest! {
        #[test]
        fn a_filter_is_covered_exactly_when_no_topic_escapes(outer in filter(), inner in filter()) {
            let escapes = topics().into_iter().any(|topic| filter_matches(&inner, &topic) && !filter_matches(&outer, &topic));
            prop_assert_eq!(covers(&outer, &inner), !escapes);
        }
    }
}
