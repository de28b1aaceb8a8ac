//! The primary has to know what the standby reads, or it removes that: the standby then cancels our
//! reads and invalidates our slot.

use super::super::{Answer, facts::Context, found::*};

struct Facts {
    /// `hot_standby_feedback`.
    feedback: bool,
    /// `primary_slot_name` is set.
    slot: bool,
}

pub(in super::super) async fn check(context: &Context<'_>) -> Answer {
    let Some(standby) = &context.database.standby else { return Ok(Vec::new()) };
    let session = standby.control().await?;
    let row = session
        .query_one(
            "SELECT current_setting('hot_standby_feedback')::boolean, \
                    current_setting('primary_slot_name') <> ''",
            &[],
        )
        .await?;
    Ok(judge(&Facts { feedback: row.get(0), slot: row.get(1) }))
}

fn judge(facts: &Facts) -> Vec<Found> {
    let mut found = Vec::new();
    if !facts.feedback {
        found.push(error(
            "CUT0179",
            "hot_standby_feedback is off on the standby: its primary removes rows that we read \
             there, which ends the copy or the run",
            format!("-- on the standby:\n{}", reload_with("hot_standby_feedback", "on")),
        ));
    }
    if !facts.slot {
        found.push(warning(
            "CUT0180",
            "the standby reads its primary without a slot (primary_slot_name): whenever it is \
             disconnected for a while, the run may end",
            format!(
                "-- on the primary:\nSELECT pg_create_physical_replication_slot('standby');\n\
                 -- on the standby:\n{}",
                reload_with("primary_slot_name", "standby")
            ),
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn feedback_is_needed_and_a_slot_is_wise() {
        let codes = |feedback, slot| {
            judge(&Facts { feedback, slot }).into_iter().map(|f| f.code).collect::<Vec<_>>()
        };
        assert_eq!(codes(true, true), [""; 0]);
        assert_eq!(codes(true, false), ["CUT0180"]);
        assert_eq!(codes(false, true), ["CUT0179"]);
    }
}
