//! Moving ownership, both ways.
