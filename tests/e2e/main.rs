//! The real program against real servers: one story per module, all in one binary.
//!
//! Every story has servers of its own, works as the role of `docs/GRANTS.md`, and ends with
//! nothing left on them. Needs what `scripts/setup test` installs. Nothing here reaches into the
//! program: a step of a move is met by reading the journal, as an operator would.

mod bad_input;
mod beside;
mod bypass;
mod computed;
mod ddl;
mod ddl_branches;
mod ddl_defaults;
mod ddl_partitions;
mod ddl_partitions_told;
mod ddl_random;
mod ddl_renamed;
mod ddl_told;
mod ddl_unseen;
mod demo;
mod emptied;
mod ends;
mod failed_switch;
mod failover;
mod failover_copy;
mod failover_owed;
mod growing;
mod kept;
mod killed_before_moves;
mod killed_in_moves;
mod lessons;
mod lost_way_back;
mod many;
mod moves_under_load;
mod operator;
mod pair;
mod prepared;
mod program;
mod put_off;
mod ranges;
mod restarts;
mod shapes;
mod spoiled;
mod standby;
mod standby_ddl;
mod tampered;
mod unlike;
mod versions;
mod watched;
mod world;
