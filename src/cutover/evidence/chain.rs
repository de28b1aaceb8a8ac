//! Facts chained by SHA-256.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::About;
use crate::cutover::fact::Fact;

/// One fact in the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Hash of the entry before; of run, program, configuration and identifier for the first.
    pub previous: String,
    /// The fact as JSON, exactly as it was hashed.
    pub line: String,
    /// SHA-256 of `previous`, a newline, and `line`, in hexadecimal.
    pub hash: String,
}

/// Where a chain is broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the evidence was changed: entry {entry} does not follow from the one before")]
pub struct Broken {
    /// First entry that does not fit, counted from 1; one more than there are when the seal does
    /// not fit.
    pub entry: usize,
}

fn sha256(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(64);
    for byte in Sha256::digest(text.as_bytes()) {
        // Writing to a string cannot fail.
        write!(out, "{byte:02x}").unwrap_or_default();
    }
    out
}

/// What the first entry follows.
pub(super) fn root(about: &About, id: &str) -> String {
    sha256(&serde_json::json!({ "about": about, "id": id }).to_string())
}

pub(super) fn link(root: &str, facts: &[Fact]) -> Vec<Entry> {
    let mut previous = root.to_owned();
    facts
        .iter()
        .map(|fact| {
            let line = serde_json::to_string(fact).unwrap_or_default();
            let hash = sha256(&format!("{previous}\n{line}"));
            Entry { previous: std::mem::replace(&mut previous, hash.clone()), line, hash }
        })
        .collect()
}

pub(super) fn check(root: &str, chain: &[Entry], seal: &str) -> Result<(), Broken> {
    let mut before = root.to_owned();
    for (index, entry) in chain.iter().enumerate() {
        let hash = sha256(&format!("{}\n{}", entry.previous, entry.line));
        if entry.previous != before || entry.hash != hash {
            return Err(Broken { entry: index + 1 });
        }
        before.clone_from(&entry.hash);
    }
    if before == seal || chain.is_empty() { Ok(()) } else { Err(Broken { entry: chain.len() + 1 }) }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::sample, *};

    #[test]
    fn every_change_shows() {
        let whole = sample();
        assert!(whole.check().is_ok());
        for index in 0..whole.chain.len() {
            let mut changed = whole.clone();
            changed.chain[index].line.push(' ');
            assert_eq!(changed.check(), Err(Broken { entry: index + 1 }));
            let mut lost = whole.clone();
            lost.chain.remove(index);
            assert!(lost.check().is_err(), "entry {index} lost");
            let mut doubled = whole.clone();
            doubled.chain.insert(index, whole.chain[index].clone());
            assert!(doubled.check().is_err(), "entry {index} doubled");
        }
        let mut configured = whole.clone();
        configured.about.configuration = serde_json::json!({"run": "other"});
        assert_eq!(configured.check(), Err(Broken { entry: 1 }));
        let mut swapped = whole.clone();
        swapped.chain.swap(2, 3);
        assert!(swapped.check().is_err());
    }

    #[test]
    fn it_can_be_checked_without_this_program() {
        assert_eq!(
            sha256("abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        let whole = sample();
        let second = &whole.chain[1];
        assert_eq!(second.hash, sha256(&format!("{}\n{}", second.previous, second.line)));
    }
}
