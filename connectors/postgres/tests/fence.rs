//! The fence, the counters and what else a move asks of a database, on real servers and as the
//! role with the least rights.

#[path = "fence/asleep.rs"]
mod asleep;
#[path = "fence/beside.rs"]
mod beside;
#[path = "fence/counters.rs"]
mod counters;
#[path = "fence/damage.rs"]
mod damage;
mod home;
#[path = "fence/questions.rs"]
mod questions;
#[path = "fence/races.rs"]
mod races;
#[path = "fence/refused.rs"]
mod refused;
#[path = "fence/writers.rs"]
mod writers;
