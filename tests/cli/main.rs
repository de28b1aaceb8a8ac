//! Whole commands without a database: what they print where, and how they end.
//!
//! Texts are snapshots in `snapshots/`; `INSTA_UPDATE=always cargo test --test cli` writes them
//! again, and the difference is what a user will see.

mod answers;
mod configuration;
mod desk;
mod usage;
