//! Fakes, faults, and the contract that every implementation of a port must pass.
//!
//! [`contract`] is the same test for all implementations of a port. [`FaultProxy`] spoils real
//! connections, [`FakeSwitch`] and [`FakePrimary`] fail on order, [`Redirector`] is a small device
//! with a gate that a switch can drive. For tests only; knows the core and no connector.

pub mod contract;
mod dice;
mod faults;
mod gate;
mod inline;
mod primary;
mod proxy;
mod redirector;
mod switch;
mod wait;

pub use dice::Dice;
pub use faults::{Fault, Faults};
pub use gate::{Gate, Pass};
pub use inline::next_inline;
pub use primary::{CLOSED_AT, FakePrimary, PrimaryCall};
pub use proxy::{Direction, FaultProxy, Link};
pub use redirector::{Ledger, LineClient, Redirector};
pub use switch::{FakeDevice, FakeSwitch, SwitchCall};
pub use wait::{wait_until, within};
