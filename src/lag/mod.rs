//! How far behind, honestly.
