//! The subscription index: which keys' filters match a topic, in time that follows the topic's depth, not the number of filters.
//!
//! A trie over filter levels in one arena. Nothing here recurses: a filter may have 32,768 levels, and a client chooses it.

use std::collections::HashMap;

const ROOT: usize = 0;

/// Filters → (key, value) pairs; a key stands at most once under one filter.
#[derive(Debug)]
pub struct Index<K, V> {
    nodes: Vec<Node<K, V>>,
    free: Vec<usize>,
    entries: usize,
}

#[derive(Debug)]
struct Node<K, V> {
    parent: usize,
    /// The level's name below its parent; `+` for the wildcard.
    name: Box<str>,
    named: HashMap<Box<str>, usize>,
    plus: Option<usize>,
    /// Filters that end here, sorted by key.
    here: Vec<(K, V)>,
    /// Filters that end in `#` below here, sorted by key.
    below: Vec<(K, V)>,
}

impl<K, V> Node<K, V> {
    fn new(parent: usize, name: &str) -> Self {
        Self { parent, name: name.into(), named: HashMap::new(), plus: None, here: Vec::new(), below: Vec::new() }
    }

    fn is_empty(&self) -> bool {
        self.named.is_empty() && self.plus.is_none() && self.here.is_empty() && self.below.is_empty()
    }
}

impl<K: Ord, V> Default for Index<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Ord, V> Index<K, V> {
    pub fn new() -> Self {
        Self { nodes: vec![Node::new(ROOT, "")], free: Vec::new(), entries: 0 }
    }

    /// Pairs in the index.
    pub fn len(&self) -> usize {
        self.entries
    }

    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// `filter` is a valid topic filter. Gives back the value that stood there for the key.
    pub fn insert(&mut self, filter: &str, key: K, value: V) -> Option<V> {
        let (stem, hash) = split_hash(filter);
        let mut at = ROOT;
        for level in stem {
            at = self.child_or_new(at, level);
        }
        let list = if hash { &mut self.nodes[at].below } else { &mut self.nodes[at].here };
        match list.binary_search_by(|(other, _)| other.cmp(&key)) {
            Ok(place) => Some(std::mem::replace(&mut list[place].1, value)),
            Err(place) => {
                list.insert(place, (key, value));
                self.entries += 1;
                None
            }
        }
    }

    /// Gives back the value that stood there.
    pub fn remove(&mut self, filter: &str, key: &K) -> Option<V> {
        let (stem, hash) = split_hash(filter);
        let mut at = ROOT;
        for level in stem {
            at = self.child(at, level)?;
        }
        let list = if hash { &mut self.nodes[at].below } else { &mut self.nodes[at].here };
        let place = list.binary_search_by(|(other, _)| other.cmp(key)).ok()?;
        let (_, value) = list.remove(place);
        self.entries -= 1;
        self.prune(at);
        Some(value)
    }

    /// Calls `found` for every pair whose filter matches the valid topic; a key under several such filters comes several times.
    pub fn for_each_match(&self, topic: &str, mut found: impl FnMut(&K, &V)) {
        // Each trie node lies on one path only, so it is visited at most once: the work is bounded by the smaller of
        // the trie and the wildcard paths through it.
        let mut stack: Vec<(usize, Option<&str>)> = vec![(ROOT, Some(topic))];
        while let Some((at, rest)) = stack.pop() {
            let node = &self.nodes[at];
            // A wildcard in first place never matches a topic that begins with `$` (MQTT 5, 4.7.2).
            let wild = at != ROOT || !topic.starts_with('$');
            if wild {
                node.below.iter().for_each(|(key, value)| found(key, value));
            }
            let Some(rest) = rest else {
                node.here.iter().for_each(|(key, value)| found(key, value));
                continue;
            };
            let (level, rest) = match rest.split_once('/') {
                Some((level, rest)) => (level, Some(rest)),
                None => (rest, None),
            };
            if let Some(&next) = node.named.get(level) {
                stack.push((next, rest));
            }
            if let (true, Some(next)) = (wild, node.plus) {
                stack.push((next, rest));
            }
        }
    }

    fn child(&self, at: usize, level: &str) -> Option<usize> {
        if level == "+" { self.nodes[at].plus } else { self.nodes[at].named.get(level).copied() }
    }

    fn child_or_new(&mut self, at: usize, level: &str) -> usize {
        if let Some(next) = self.child(at, level) {
            return next;
        }
        let node = Node::new(at, level);
        let next = if let Some(place) = self.free.pop() {
            self.nodes[place] = node;
            place
        } else {
            self.nodes.push(node);
            self.nodes.len() - 1
        };
        if level == "+" {
            self.nodes[at].plus = Some(next);
        } else {
            self.nodes[at].named.insert(level.into(), next);
        }
        next
    }

    fn prune(&mut self, mut at: usize) {
        while at != ROOT && self.nodes[at].is_empty() {
            let parent = self.nodes[at].parent;
            let name = std::mem::take(&mut self.nodes[at].name);
            if &*name == "+" {
                self.nodes[parent].plus = None;
            } else {
                self.nodes[parent].named.remove(&name);
            }
            self.free.push(at);
            at = parent;
        }
    }
}

/// The filter's levels without a closing `#`, and whether it had one.
fn split_hash(filter: &str) -> (impl Iterator<Item = &str>, bool) {
    let (stem, hash) = match filter {
        "#" => (None, true),
        _ => match filter.strip_suffix("/#") {
            Some(stem) => (Some(stem), true),
            None => (Some(filter), false),
        },
    };
    (stem.into_iter().flat_map(|stem| stem.split('/')), hash)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::hub::topics::{filter_matches, is_valid_filter};

    fn level() -> impl Strategy<Value = String> {
        prop_oneof![Just("a".into()), Just("b".into()), Just("".into()), Just("$s".into()), Just("+".into())]
    }

    fn filter() -> impl Strategy<Value = String> {
        (prop::collection::vec(level(), 0..5), any::<bool>())
            .prop_map(|(mut levels, hash)| {
                if hash {
                    levels.push("#".into());
                }
                levels.join("/")
            })
            .prop_filter("valid", |filter| is_valid_filter(filter))
    }

    fn topic() -> impl Strategy<Value = String> {
        prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just(""), Just("$s")], 1..5)
            .prop_map(|levels| levels.join("/"))
            .prop_filter("not empty", |topic| !topic.is_empty())
    }

    proptest! {
        #[test]
        fn the_index_finds_what_matching_filter_by_filter_finds(
            steps in prop::collection::vec((filter(), 0..4u8, any::<bool>()), 0..40),
            topics in prop::collection::vec(topic(), 1..10),
        ) {
            let mut index = Index::new();
            let mut model = BTreeSet::new();
            for (filter, key, insert) in steps {
                if insert {
                    let replaced = index.insert(&filter, key, ()).is_some();
                    prop_assert_eq!(replaced, !model.insert((filter, key)));
                } else {
                    prop_assert_eq!(index.remove(&filter, &key).is_some(), model.remove(&(filter, key)));
                }
            }
            prop_assert_eq!(index.len(), model.len());
            for topic in topics {
                let mut found = Vec::new();
                index.for_each_match(&topic, |key, ()| found.push(*key));
                found.sort_unstable();
                let mut expected: Vec<u8> =
                    model.iter().filter(|(filter, _)| filter_matches(filter, &topic)).map(|(_, key)| *key).collect();
                expected.sort_unstable();
                prop_assert_eq!(found, expected);
            }
            for (filter, key) in model {
                index.remove(&filter, &key);
            }
            prop_assert_eq!(index.free.len() + 1, index.nodes.len(), "an empty index holds its root only");
        }
    }

    #[test]
    fn the_deepest_filter_that_fits_a_packet_is_taken_found_and_removed() {
        let filter = "/".repeat(65_535);
        let mut index = Index::new();
        index.insert(&filter, 1, ());
        index.insert(&format!("{}#", &filter[..65_534]), 2, ());
        let mut found = Vec::new();
        index.for_each_match(&filter, |key, ()| found.push(*key));
        found.sort_unstable();
        assert_eq!(found, [1, 2]);
        assert_eq!(index.remove(&filter, &1), Some(()));
        assert_eq!(index.remove(&format!("{}#", &filter[..65_534]), &2), Some(()));
        assert!(index.is_empty());
    }
}
