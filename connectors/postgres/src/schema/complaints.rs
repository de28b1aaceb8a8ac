//! What `pg_restore` complains about, and what of it means that something is there already. Pure.

/// The messages of one run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Complaints {
    /// Messages that stop the run; without details, which may hold values.
    pub(super) serious: Vec<String>,
    /// Messages that only say what an earlier, interrupted run did.
    pub(super) harmless: usize,
}

impl Complaints {
    pub(super) fn of(said: &str) -> Self {
        let mut complaints = Self::default();
        for line in said.lines() {
            let Some((_, message)) = line.split_once("error: ") else { continue };
            let message = message
                .strip_prefix("could not execute query: ERROR:  ")
                .or_else(|| message.strip_prefix("could not execute query: ERROR: "))
                .unwrap_or(message);
            if is_harmless(message) {
                complaints.harmless += 1;
            } else {
                complaints.serious.push(message.to_owned());
            }
        }
        complaints
    }
}

fn is_harmless(message: &str) -> bool {
    // "relation ... already exists", "is already an identity column", "is already a partition".
    message.contains(" already ")
        || message.starts_with("multiple primary keys for table")
        // A newer pg_restore sets parameters that an older server does not know.
        || message.starts_with("unrecognized configuration parameter")
        // The comment of an extension that an administrator has created.
        || message.starts_with("must be owner of extension")
}

/// The first lines of what a program said, for a message.
pub(super) fn first_lines(said: &str) -> String {
    let lines: Vec<&str> =
        said.lines().filter(|l| !l.trim_start().starts_with("DETAIL")).take(3).collect();
    lines.join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_already_is_harmless_and_details_are_dropped() {
        let said = "pg_restore: while PROCESSING TOC:\n\
             pg_restore: from TOC entry 215; 1259 16386 TABLE a shop\n\
             pg_restore: error: could not execute query: ERROR:  relation \"a\" already exists\n\
             Command was: CREATE TABLE public.a (id integer);\n\n\
             pg_restore: error: could not execute query: ERROR:  multiple primary keys for table \"a\" are not allowed\n\
             pg_restore: error: could not execute query: ERROR:  could not create unique index \"b\"\n\
             DETAIL:  Key (email)=(secret@example.com) is duplicated.\n\
             pg_restore: warning: errors ignored on restore: 3\n";
        let complaints = Complaints::of(said);
        assert_eq!(complaints.harmless, 2);
        assert_eq!(complaints.serious, ["could not create unique index \"b\""]);
    }

    #[test]
    fn a_lost_connection_is_serious() {
        let said = "pg_restore: error: connection to server at \"h\" failed: refused\n";
        assert_eq!(Complaints::of(said).serious.len(), 1);
        assert_eq!(first_lines("a\nDETAIL: x\nb\n"), "a | b");
    }
}
