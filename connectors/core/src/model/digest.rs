//! What the verifier compares: counts and sums, never values.

use serde::{Deserialize, Serialize};

/// Digest of a set of rows: a count and the sum of the row hashes.
///
/// A sum and not an XOR, so that duplicates do not cancel out. Sums of disjoint sets add up, so a
/// table can be read in any order and in parallel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Digest {
    /// Rows.
    pub rows: u64,
    /// Sum of the 64-bit row hashes; exact, since 2^63 rows do not exist.
    pub sum: i128,
}

impl Digest {
    /// Adds the digest of a disjoint set of rows.
    pub fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.sum += other.sum;
    }
}

/// The key of a row in text form, one entry per key column in key order.
///
/// For a table without a key it is one entry: the hash of the row as decimal text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RowKey(pub Vec<String>);

impl std::fmt::Debug for RowKey {
    /// Number of parts only: keys are shown only where the user asked for them.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RowKey({} parts)", self.0.len())
    }
}

/// One row's key and hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowDigest {
    /// Its key.
    pub key: RowKey,
    /// Hash of the whole row.
    pub hash: i64,
}
