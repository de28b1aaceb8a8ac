//! A stream that is opened again: what comes first is neither left out nor taken for known.

use cutover::stream::{Mode, handover::Handover};
use cutover_core::model::{schema::TableName, side::Side::Green};

use crate::world::{World, run};

/// Ends the stream of the database and writes, in one transaction: nothing is ahead of it in the
/// next stream.
const END_AND_WRITE: &str = "
    SELECT pg_terminate_backend(active_pid, 60000) FROM pg_replication_slots
     WHERE database = current_database() AND active;
    INSERT INTO t VALUES ";

/// The other side has stored, and the slot was told, that everything so far is passed.
async fn settled(w: &World) {
    let row = w.green.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap();
    let sql = format!(
        "SELECT bool_and(confirmed_flush_lsn >= '{}') FROM pg_replication_slots
          WHERE database = current_database()",
        row.get::<_, &str>(0)
    );
    w.until(Green, "the slot to be confirmed", &sql).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_first_after_a_copy_into_its_own_side_counts() {
    let w = World::new("own-copy").await;
    // Blue's row came to green by a copy, while green's changes were followed.
    run(&w.blue, &["INSERT INTO t VALUES (500, 'copied')"]).await;
    run(&w.green, &["INSERT INTO t VALUES (500, 'copied')"]).await;
    let copied = Handover::default().without([TableName::new("public", "t")], w.head(Green).await);
    let pipe = w.pipe_after(Green, Mode::Apply, copied).await;
    w.arrives(&pipe).await;
    for row in ["(601, 'first')", "(602, 'first again')"] {
        settled(&w).await;
        run(&w.green, &[&format!("{END_AND_WRITE}{row}")]).await;
        w.arrives(&pipe).await;
        w.equal().await;
    }
    // While nobody may write there, it is an alarm.
    pipe.set_mode(Mode::Watch).await.unwrap();
    // Through the stream of a watcher, which it opens by itself.
    w.arrives(&pipe).await;
    settled(&w).await;
    run(&w.green, &[&format!("{END_AND_WRITE}(603, 'foreign')")]).await;
    w.arrives(&pipe).await;
    let view = pipe.view();
    assert_eq!((view.foreign, view.reconnects >= 3), (1, true), "{view:?}");
    w.close(vec![pipe]).await;
}

/// As a server does that took over without the last seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_forgot_all_that_was_applied_is_told_from_a_new_one() {
    let w = World::new("forgot").await;
    let pipe = w.pipe(Green, Mode::Apply).await;
    run(&w.green, &["INSERT INTO small VALUES (1, 1)"]).await;
    w.arrives(&pipe).await;
    settled(&w).await;
    drop(pipe);
    let schema = w.run.object_name();
    let forget = format!("DELETE FROM small; UPDATE {schema}.progress SET position = NULL");
    run(&w.blue, &[&forget]).await;
    let pipe = w.pipe(Green, Mode::Apply).await;
    w.stops(&pipe, "CUT0209").await;
    w.close(vec![pipe]).await;
}
