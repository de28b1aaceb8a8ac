//! Fakes, faults, and the contract that every implementation of a port must pass.
