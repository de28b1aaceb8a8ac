//! Every value that PostgreSQL can hold, on its way from one server to another, through the copy
//! and through the stream. The servers are the oracle: what blue renders, green must render.
#![allow(clippy::print_stderr, reason = "a seed, and what is left out, must be seen")]

#[path = "values/collations.rs"]
mod collations;
#[path = "values/encodings.rs"]
mod encodings;
#[path = "values/enums.rs"]
mod enums;
#[path = "values/histories.rs"]
mod histories;
#[path = "values/journey.rs"]
mod journey;
#[path = "values/kinds.rs"]
mod kinds;
#[path = "values/money.rs"]
mod money;
#[path = "values/postgis.rs"]
mod postgis;
#[path = "values/random.rs"]
mod random;
#[path = "values/settings.rs"]
mod settings;
#[path = "values/world.rs"]
mod world;
