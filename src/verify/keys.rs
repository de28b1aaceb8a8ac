//! A set of row keys that takes little memory: millions of them may wait.

use std::collections::HashSet;

use cutover_core::model::digest::RowKey;

/// Stands between the parts of a key. Text in UTF-8 never contains it.
const SEPARATOR: u8 = 0xff;

/// Row keys, each once, all with the same number of parts and at least one.
#[derive(Debug, Default)]
pub(super) struct Keys(HashSet<Box<[u8]>>);

impl Keys {
    /// Adds a key; how many bytes it takes, 0 when it is there already.
    pub(super) fn insert(&mut self, key: &RowKey) -> usize {
        let packed = pack(key);
        let bytes = size(&packed);
        if self.0.insert(packed) { bytes } else { 0 }
    }

    pub(super) fn contains(&self, key: &RowKey) -> bool {
        self.0.contains(&pack(key))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes that all of them take.
    pub(super) fn bytes(&self) -> usize {
        self.0.iter().map(|packed| size(packed)).sum()
    }

    /// Takes up to `limit` keys out; with how many bytes they took.
    pub(super) fn take(&mut self, limit: usize) -> (Vec<RowKey>, usize) {
        if limit >= self.0.len() {
            let bytes = self.bytes();
            // The table is given back as well.
            return (std::mem::take(&mut self.0).iter().map(|p| unpack(p)).collect(), bytes);
        }
        let some: Vec<_> = self.0.iter().take(limit).cloned().collect();
        let bytes = some.iter().map(|packed| size(packed)).sum();
        for packed in &some {
            self.0.remove(packed);
        }
        (some.iter().map(|packed| unpack(packed)).collect(), bytes)
    }

    /// Moves the keys of another set into this one; how many bytes came.
    pub(super) fn absorb(&mut self, other: Self) -> usize {
        if self.0.is_empty() {
            *self = other;
            return self.bytes();
        }
        let new = |packed: Box<[u8]>| {
            let bytes = size(&packed);
            if self.0.insert(packed) { bytes } else { 0 }
        };
        other.0.into_iter().map(new).sum()
    }
}

/// What one key takes: its place in a table that is two thirds full, and its own piece of memory.
fn size(packed: &[u8]) -> usize {
    size_of::<Box<[u8]>>() * 3 / 2 + packed.len().next_multiple_of(16).max(16) + 8
}

fn pack(key: &RowKey) -> Box<[u8]> {
    let length = key.0.iter().map(|part| part.len() + 1).sum::<usize>().saturating_sub(1);
    let mut packed = Vec::with_capacity(length);
    for (i, part) in key.0.iter().enumerate() {
        if i > 0 {
            packed.push(SEPARATOR);
        }
        packed.extend_from_slice(part.as_bytes());
    }
    packed.into_boxed_slice()
}

fn unpack(packed: &[u8]) -> RowKey {
    let text = |part: &[u8]| String::from_utf8_lossy(part).into_owned();
    RowKey(packed.split(|byte| *byte == SEPARATOR).map(text).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(parts: &[&str]) -> RowKey {
        RowKey(parts.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn keys_come_back_as_they_were() {
        for parts in [&["1"][..], &[""], &["", ""], &["ÿ", "a\u{fe}b"], &["a", "", "c"], &["\0"]] {
            assert_eq!(unpack(&pack(&key(parts))), key(parts));
        }
        assert_ne!(pack(&key(&["a", "bc"])), pack(&key(&["ab", "c"])));
    }

    #[test]
    fn each_counts_once() {
        let mut keys = Keys::default();
        let of_one = keys.insert(&key(&["1", "x"]));
        assert!(of_one > 0);
        assert_eq!(keys.insert(&key(&["1", "x"])), 0);
        assert!(keys.contains(&key(&["1", "x"])) && !keys.contains(&key(&["1", "y"])));
        keys.insert(&key(&["2", "x"]));
        assert_eq!((keys.len(), keys.bytes()), (2, 2 * of_one));
        let (one, bytes) = keys.take(1);
        assert_eq!((one.len(), bytes, keys.len()), (1, of_one, 1));
        let (other, bytes) = keys.take(5);
        assert_eq!((other.len(), bytes), (1, of_one));
        assert!(keys.is_empty() && one != other);
    }

    #[test]
    fn absorbs_what_is_new() {
        let set = |ids: &[&str]| {
            let mut keys = Keys::default();
            let bytes: usize = ids.iter().map(|id| keys.insert(&key(&[id]))).sum();
            (keys, bytes)
        };
        let (mut all, two) = set(&[]);
        assert_eq!((all.absorb(set(&["1", "2"]).0), two), (set(&["1", "2"]).1, 0));
        assert_eq!(all.absorb(set(&["2", "3"]).0), set(&["3"]).1);
        assert_eq!(all.len(), 3);
    }
}
