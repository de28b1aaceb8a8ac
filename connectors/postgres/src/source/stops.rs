//! The named stops of capture: what cannot be healed by trying again, each with its page.

use cutover_core::{model::position::Position, port::PortError};

use crate::connect::{ServerError, WireError};

/// SQLSTATE of what cannot be done as things are: reading a slot that was invalidated, for example,
/// and the warning with which newer servers leave out a missing publication.
pub(super) const NOT_IN_STATE: &str = "55000";

pub(super) const UNIDENTIFIED: &str = "CUT0125";
pub(super) const NOT_LOGGED: &str = "CUT0128";
pub(super) const SLOT_LOST: &str = "CUT0201";
pub(super) const SLOT_IN_USE: &str = "CUT0202";
pub(super) const SLOT_UNFIT: &str = "CUT0203";
pub(super) const NO_PUBLICATION: &str = "CUT0204";
pub(super) const TABLE_LEFT: &str = "CUT0205";
pub(super) const NO_SPILL: &str = "CUT0206";
pub(super) const NOT_UNDERSTOOD: &str = "CUT0207";
pub(super) const OTHER_TIMELINE: &str = "CUT0208";
pub(super) const SLOT_AHEAD: &str = "CUT0209";
pub(super) const PREPARED: &str = "CUT0210";
pub(super) const STANDBY: &str = "CUT0211";
pub(super) const SLOT_WAITS: &str = "CUT0212";
pub(super) const COMMITS_LOST: &str = "CUT0216";
pub(super) const SLOT_NOT_SYNCED: &str = "CUT0217";
pub(super) const NOT_OUR_STANDBY: &str = "CUT0218";
pub(super) const SLOT_IN_CONFLICT: &str = "CUT0219";

/// How a run is given up; which of the two is possible depends on who owns the writes.
macro_rules! give_up {
    () => {
        "end this run (`cutover abort`, or `cutover finish` when green owns the writes) and start \
         a new one"
    };
}

/// What helps when changes are gone: nothing but the rows again.
const START_AGAIN: &str = concat!("changes are missing and cannot be had again: ", give_up!());

pub(super) fn slot_lost(doing: String, slot: &str, why: &str) -> PortError {
    PortError::definite(
        SLOT_LOST,
        doing,
        format!("replication slot {slot} {why}"),
        format!("{START_AGAIN}; raise max_slot_wal_keep_size before"),
    )
}

pub(super) fn slot_in_use(doing: String, slot: &str, pid: i32) -> PortError {
    PortError::definite(
        SLOT_IN_USE,
        doing,
        format!("replication slot {slot} is read by process {pid}"),
        format!("if that is not a running cutover: SELECT pg_terminate_backend({pid});"),
    )
}

/// The server ends it by itself once it has noticed.
pub(super) fn slot_kept(doing: String, slot: &str, pid: i32) -> PortError {
    PortError::transient(
        doing,
        format!(
            "replication slot {slot} is kept by process {pid} for a cutover that is gone: it ends \
             within wal_sender_timeout, or with SELECT pg_terminate_backend({pid});"
        ),
    )
}

pub(super) fn slot_unfit(doing: String, slot: &str, why: &str) -> PortError {
    PortError::definite(
        SLOT_UNFIT,
        doing,
        format!("replication slot {slot} exists and {why}"),
        format!("if nobody needs it: SELECT pg_drop_replication_slot('{slot}');"),
    )
}

pub(super) fn no_publication(doing: String, name: &str) -> PortError {
    PortError::definite(
        NO_PUBLICATION,
        doing,
        format!("publication {name} is missing: the server leaves out its changes"),
        START_AGAIN,
    )
}

pub(super) fn publication_made_anew(doing: String, name: &str) -> PortError {
    PortError::definite(
        NO_PUBLICATION,
        doing,
        format!("publication {name} was missing for a while, and is another one now"),
        "stop `cutover run` and start it again: its tables are copied again, since changes are missing",
    )
}

pub(super) fn not_logged(doing: String, tables: &[&str]) -> PortError {
    let logged: Vec<String> =
        tables.iter().map(|table| format!("ALTER TABLE {table} SET LOGGED;")).collect();
    PortError::definite(
        NOT_LOGGED,
        doing,
        format!("changes of unlogged tables cannot be followed: {}", tables.join(", ")),
        format!("{} or exclude them under `tables`; then start again", logged.join(" ")),
    )
}

pub(super) fn unidentified(doing: String, tables: &[String]) -> PortError {
    let full: Vec<String> =
        tables.iter().map(|table| format!("ALTER TABLE {table} REPLICA IDENTITY FULL;")).collect();
    PortError::definite(
        UNIDENTIFIED,
        doing,
        format!(
            "not published, since clients could not update or delete rows any more: no usable \
             replica identity on {}",
            tables.join(", ")
        ),
        format!(
            "{} or, better, give each a primary key that is not deferrable; start `cutover run` \
             again if it has ended",
            full.join(" ")
        ),
    )
}

pub(super) fn table_left(doing: String, tables: &[String]) -> PortError {
    PortError::definite(
        TABLE_LEFT,
        doing,
        format!("not in the publication any more: {}", tables.join(", ")),
        START_AGAIN,
    )
}

pub(super) fn table_dropped(doing: String, tables: &[String]) -> PortError {
    PortError::definite(
        TABLE_LEFT,
        doing,
        format!("not in the publication any more: {}", tables.join(", ")),
        "nothing is missing. Drop the table on the other side as well, or leave it there; then stop \
         `cutover run` and start it again: one that was made anew under its name is copied",
    )
}

pub(super) fn table_came_back(doing: String, tables: &[String]) -> PortError {
    PortError::definite(
        TABLE_LEFT,
        doing,
        format!("was out of the publication for a while: {}", tables.join(", ")),
        "stop `cutover run` and start it again: the table is copied again, since changes are missing",
    )
}

pub(super) fn no_spill(folder: &std::path::Path, e: &std::io::Error) -> PortError {
    PortError::definite(
        NO_SPILL,
        format!("putting a large transaction into {}", folder.display()),
        e.to_string(),
        "free space there or give another state_dir, then start the run again: nothing is lost",
    )
}

pub(super) fn not_understood(doing: String, what: impl ToString) -> PortError {
    PortError::definite(
        NOT_UNDERSTOOD,
        doing,
        what.to_string(),
        "report this with the version of the server; nothing past this place was applied",
    )
}

pub(super) fn other_timeline(doing: String, from: &Position, now: u32) -> PortError {
    PortError::definite(
        OTHER_TIMELINE,
        doing,
        format!("the log is on timeline {now}, whose history does not contain {from}"),
        concat!(
            "find out which server answers at this address and whether it was restored from a \
             backup; if it is the right one, ",
            give_up!()
        ),
    )
}

pub(super) fn commits_lost(doing: String, from: &Position, parted: &str, now: u32) -> PortError {
    let Position::Postgres { timeline, .. } = from;
    if *timeline == now {
        return PortError::definite(
            COMMITS_LOST,
            doing,
            format!(
                "the log ends at {parted}, so an earlier state of the server was put back: the \
                 other side is ahead of it, at {from}"
            ),
            concat!(
                "the other side may hold transactions that are lost here: decide which of the two \
                 is right, then ",
                give_up!()
            ),
        );
    }
    PortError::definite(
        COMMITS_LOST,
        doing,
        format!(
            "another server took over (timeline {now}) and holds the log up to {parted} only: the \
             other side is ahead of it, at {from}"
        ),
        concat!(
            "the other side may hold transactions that the failover lost: decide which of the two \
             is right, then ",
            give_up!(),
            "; synchronized_standby_slots on the primary (17 and later) prevents this"
        ),
    )
}

pub(super) fn slot_not_synced(doing: String, slot: &str, now: u32) -> PortError {
    PortError::definite(
        SLOT_NOT_SYNCED,
        doing,
        format!(
            "another server took over (timeline {now}) and does not have replication slot {slot}"
        ),
        format!(
            "{START_AGAIN}; from 17 on a standby takes the slot along with sync_replication_slots \
             = on, hot_standby_feedback = on, primary_slot_name, and dbname in primary_conninfo"
        ),
    )
}

pub(super) fn not_our_standby(doing: String, why: &str) -> PortError {
    PortError::definite(
        NOT_OUR_STANDBY,
        doing,
        why,
        concat!(
            "find out which server answers at `read_from`: it must be a standby of this side's \
             primary; after a promotion ",
            give_up!()
        ),
    )
}

pub(super) fn slot_in_conflict(doing: String, slot: &str, why: &str) -> PortError {
    PortError::definite(
        SLOT_IN_CONFLICT,
        doing,
        format!("the standby invalidated replication slot {slot} ({why})"),
        format!(
            "{START_AGAIN}; before, set hot_standby_feedback = on and primary_slot_name on the \
             standby, and keep wal_level = logical on its primary"
        ),
    )
}

/// While a failover goes on: it is over soon, or somebody reads the log.
pub(super) fn not_promoted(doing: String) -> PortError {
    PortError::transient(doing, "the server is a standby (or in recovery): waiting for promotion")
}

pub(super) fn slot_ahead(doing: String, slot: &str, slot_at: &str, from: &Position) -> PortError {
    PortError::definite(
        SLOT_AHEAD,
        doing,
        format!("slot {slot} is at {slot_at}, past the {from} that the other side holds"),
        format!("was the other side restored from a backup? {START_AGAIN}"),
    )
}

pub(super) fn prepared(doing: String, tag: char) -> PortError {
    PortError::definite(
        PREPARED,
        doing,
        format!("the slot sends two-phase transactions before they commit (message {tag:?})"),
        concat!("the slot was changed to two_phase; ", give_up!()),
    )
}

pub(super) fn standby(doing: String) -> PortError {
    PortError::definite(
        STANDBY,
        doing,
        "the server is a standby (or in recovery)",
        "give the address of the primary",
    )
}

pub(super) fn slot_waits(doing: String, who: &[String]) -> PortError {
    PortError::definite(
        SLOT_WAITS,
        doing,
        format!("open transactions keep the slot from starting: {}", who.join("; ")),
        "end them (SELECT pg_terminate_backend(pid), COMMIT PREPARED or ROLLBACK PREPARED), then \
         try again",
    )
}

/// What an error while starting means.
pub(super) fn at_start(doing: String, slot: &str, e: WireError) -> PortError {
    match e {
        WireError::Server(ServerError { ref sqlstate, ref text }) => match sqlstate.as_str() {
            "42704" => slot_lost(doing, slot, "does not exist"),
            NOT_IN_STATE | "58P01" => slot_lost(doing, slot, &format!("cannot be read: {text}")),
            _ => e.into_port(doing),
        },
        other => other.into_port(doing),
    }
}

/// What an error in a running stream means.
pub(super) fn in_stream(doing: String, name: &str, e: WireError) -> PortError {
    match e {
        WireError::Server(ServerError { ref sqlstate, ref text }) => match sqlstate.as_str() {
            // The slot was found when the stream began, so it is the publication.
            "42704" => no_publication(doing, name),
            "58P01" => slot_lost(doing, name, &format!("cannot be read: {text}")),
            // A server that is shut down while it waits for a standby. What is wrong with slot or
            // publication is found when the stream is opened again.
            NOT_IN_STATE => PortError::transient(doing, e),
            _ => e.into_port(doing),
        },
        other => other.into_port(doing),
    }
}
