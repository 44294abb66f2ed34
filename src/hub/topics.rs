//! Topic names and filters: what is valid, and what matches what (MQTT 5, 4.7; MQTT 3.1.1, 4.7).

/// The longest topic name or filter, in bytes (MQTT 5, 1.5.4).
pub const TOPIC_BYTES_MAX: usize = 65_535;

/// Whether a client may publish to it: not empty, no wildcard, no NUL, not too long (MQTT 5, 3.3.2.1 and 4.7.3).
pub fn is_valid_topic(topic: &str) -> bool {
    !topic.is_empty() && topic.len() <= TOPIC_BYTES_MAX && !topic.contains(['+', '#', '\0'])
}

/// Whether it is a topic filter: wildcards fill a whole level, `#` only the last (MQTT 5, 4.7.1).
pub fn is_valid_filter(filter: &str) -> bool {
    if filter.is_empty() || filter.len() > TOPIC_BYTES_MAX || filter.contains('\0') {
        return false;
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let last = levels.peek().is_none();
        match level {
            "+" => {}
            "#" => {
                if !last {
                    return false;
                }
            }
            other => {
                if other.contains(['+', '#']) {
                    return false;
                }
            }
        }
    }
    true
}

/// Whether a valid filter matches a valid topic. A wildcard in first place never matches a topic that begins with `$` (4.7.2).
pub fn filter_matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut names = topic.split('/');
    for level in filter.split('/') {
        if level == "#" {
            return true;
        }
        match names.next() {
            Some(name) if level == "+" || level == name => {}
            _ => return false,
        }
    }
    names.next().is_none()
}

/// Whether every topic that `inner` matches is matched by `outer` too. Both are valid filters.
pub fn covers(outer: &str, inner: &str) -> bool {
    // A wildcard in first place does not reach topics that begin with `$`, which a literal first level does.
    if inner.starts_with('$') && outer.starts_with(['+', '#']) {
        return false;
    }
    // Every topic has a first level, so these two are the same; so are those, as no topic is empty.
    let outer = if outer == "+/#" { "#" } else { outer };
    let inner = if inner == "/#" { "/+/#" } else { inner };
    let mut wanted = inner.split('/');
    for level in outer.split('/') {
        if level == "#" {
            return true;
        }
        match wanted.next() {
            Some("#") | None => return false,
            Some(_) if level == "+" => {}
            Some(name) if name == level => {}
            Some(_) => return false,
        }
    }
    wanted.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match_as_the_specification_s_own_examples_say() {
        for (filter, topic, matches) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
            ("sport/tennis/+", "sport/tennis/player1", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/uptime", false),
            ("+/monitor/Clients", "$SYS/monitor/Clients", false),
            ("$SYS/#", "$SYS/monitor/Clients", true),
        ] {
            assert_eq!(filter_matches(filter, topic), matches, "{filter} {topic}");
        }
    }

    #[test]
    fn a_wildcard_fills_its_level_and_a_hash_ends_the_filter() {
        for filter in ["#", "+", "a/#", "+/tennis/#", "sport/+/player1", "/", "a//b"] {
            assert!(is_valid_filter(filter), "{filter}");
        }
        for filter in ["", "sport/tennis#", "sport/tennis/#/ranking", "sport+", "a/+b", "a\0"] {
            assert!(!is_valid_filter(filter), "{filter}");
        }
    }
}
