//! The tables: what cannot be followed, cannot be written, or is not carried.

pub(super) mod computed_identity;
pub(super) mod deferrable;
pub(super) mod existing_rows;
pub(super) mod extra_columns;
pub(super) mod foreign;
pub(super) mod generated;
pub(super) mod identity;
pub(super) mod large_objects;
pub(super) mod materialized_views;
pub(super) mod reserved;
pub(super) mod rules;
pub(super) mod size;
pub(super) mod triggers;
pub(super) mod unlogged;
