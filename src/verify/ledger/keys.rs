//! A set of row keys that takes little memory: millions of them may wait.

use std::collections::HashSet;

use cutover_core::model::digest::RowKey;

/// Stands between the parts of a key. Text in UTF-8 never contains it.
const SEPARATOR: u8 = 0xff;

/// A row key in one piece of memory.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(in crate::verify) struct Packed(Box<[u8]>);

impl std::fmt::Debug for Packed {
    /// Its length only: keys are shown only where the user asked for them.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Packed({} bytes)", self.0.len())
    }
}

impl Packed {
    /// The key.
    pub(in crate::verify) fn of(key: &RowKey) -> Self {
        Self(pack(key))
    }

    /// A key of these parts; `None` if one is.
    pub(super) fn of_parts<'a>(parts: impl Iterator<Item = Option<&'a str>>) -> Option<Self> {
        let mut packed = Vec::with_capacity(24);
        for (i, part) in parts.enumerate() {
            if i > 0 {
                packed.push(SEPARATOR);
            }
            packed.extend_from_slice(part?.as_bytes());
        }
        Some(Self(packed.into_boxed_slice()))
    }

    /// What [`Packed::bytes`] gave.
    pub(in crate::verify) fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// The key as bytes.
    pub(in crate::verify) fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn key(&self) -> RowKey {
        unpack(&self.0)
    }

    /// What it takes: its place in a table that is two thirds full, and its own piece of memory.
    fn size(&self) -> usize {
        size_of::<Self>() * 3 / 2 + self.0.len().next_multiple_of(16).max(16) + 8
    }
}

/// Row keys, each once, all with the same number of parts and at least one.
#[derive(Debug, Default)]
pub(in crate::verify) struct Keys(HashSet<Packed>);

impl Keys {
    /// Adds a key; how many bytes it takes, 0 when it is there already.
    pub(in crate::verify) fn insert(&mut self, key: Packed) -> usize {
        let bytes = key.size();
        if self.0.insert(key) { bytes } else { 0 }
    }

    pub(super) fn contains(&self, key: &Packed) -> bool {
        self.0.contains(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Packed> {
        self.0.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes that all of them take.
    pub(super) fn bytes(&self) -> usize {
        self.0.iter().map(Packed::size).sum()
    }

    /// Takes up to `limit` keys out; with how many bytes they took.
    pub(super) fn take(&mut self, limit: usize) -> (Vec<RowKey>, usize) {
        if limit >= self.0.len() {
            let bytes = self.bytes();
            // The table is given back as well.
            return (std::mem::take(&mut self.0).iter().map(Packed::key).collect(), bytes);
        }
        let some: Vec<_> = self.0.iter().take(limit).cloned().collect();
        let bytes = some.iter().map(Packed::size).sum();
        for packed in &some {
            self.0.remove(packed);
        }
        (some.iter().map(Packed::key).collect(), bytes)
    }

    /// Moves the keys of another set into this one; how many bytes came.
    pub(in crate::verify) fn absorb(&mut self, other: Self) -> usize {
        if self.0.is_empty() {
            *self = other;
            return self.bytes();
        }
        other.0.into_iter().map(|key| self.insert(key)).sum()
    }
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

    fn packed(parts: &[&str]) -> Packed {
        Packed::of(&key(parts))
    }

    #[test]
    fn keys_come_back_as_they_were() {
        for parts in [&["1"][..], &[""], &["", ""], &["ÿ", "a\u{fe}b"], &["a", "", "c"], &["\0"]] {
            assert_eq!(unpack(&pack(&key(parts))), key(parts));
            let same = Packed::of_parts(parts.iter().map(|part| Some(*part)));
            assert_eq!(same, Some(packed(parts)));
        }
        assert_ne!(pack(&key(&["a", "bc"])), pack(&key(&["ab", "c"])));
    }

    #[test]
    fn each_counts_once() {
        let mut keys = Keys::default();
        let of_one = keys.insert(packed(&["1", "x"]));
        assert!(of_one > 0);
        assert_eq!(keys.insert(packed(&["1", "x"])), 0);
        assert!(keys.contains(&packed(&["1", "x"])) && !keys.contains(&packed(&["1", "y"])));
        keys.insert(packed(&["2", "x"]));
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
            let bytes: usize = ids.iter().map(|id| keys.insert(packed(&[id]))).sum();
            (keys, bytes)
        };
        let (mut all, two) = set(&[]);
        assert_eq!((all.absorb(set(&["1", "2"]).0), two), (set(&["1", "2"]).1, 0));
        assert_eq!(all.absorb(set(&["2", "3"]).0), set(&["3"]).1);
        assert_eq!(all.len(), 3);
    }
}
