//! Large transactions are applied while they run: real servers, a pipe, and what others see. And
//! what is read at the ends of tables that grow.

mod again;
mod stops;
mod tails;
mod world;

use cutover::stream::{HoldPoint, Mode};
use cutover_core::model::side::Side::{Blue, Green};
use world::{World, rows, run};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_written_before_its_commit_and_seen_after() {
    let w = World::new("written").await;
    let pipe = w.pipe(Blue, Mode::Apply).await;
    let (a, b) = (w.client(Blue).await, w.client(Blue).await);
    run(&a, &["BEGIN", "UPDATE t SET v = 'new' WHERE id > -51", &rows(1, 4_000)]).await;
    w.written(Green, 300).await;
    // Others are applied meanwhile, and nobody sees anything of it.
    run(&b, &["INSERT INTO small VALUES (1, 1)", "UPDATE t SET v = 'b' WHERE id = -100"]).await;
    w.arrives(&pipe).await;
    assert_eq!(w.number(Green, "SELECT count(*) FROM small").await, 1);
    assert_eq!(w.number(Green, "SELECT count(*) FROM t WHERE id > 0 OR v = 'new'").await, 0);
    assert_eq!(w.number(Green, "SELECT count(*) FROM t WHERE v = 'b'").await, 1);
    let before = pipe.view().applied;
    assert!(w.eye.0.lock().unwrap().early > 1_000);
    assert!(w.eye.0.lock().unwrap().rows <= 2, "what is not committed does not count");
    run(&a, &["DELETE FROM t WHERE id = 4000", "COMMIT", "UPDATE t SET v = 'after' WHERE id = 1"])
        .await;
    w.arrives(&pipe).await;
    let view = pipe.view();
    assert_eq!((view.early, view.early_given_up), (1, 0), "{view:?}");
    assert_ne!(before, view.applied);
    assert_eq!(w.eye.0.lock().unwrap().ended.first(), Some(&true));
    assert_eq!(w.eye.0.lock().unwrap().rows, 3, "rows of the large one count once");
    w.equal().await;
    // The same session takes the next one, and a rolled back one leaves nothing.
    let size = w.size(Green).await;
    run(&a, &["BEGIN", "UPDATE t SET v = repeat('never', 20)"]).await;
    w.written(Green, size + 200).await;
    run(&a, &["ROLLBACK", "UPDATE t SET v = 'last' WHERE id < 10"]).await;
    w.arrives(&pipe).await;
    let view = pipe.view();
    assert_eq!((view.early, view.early_given_up), (2, 0), "{view:?}");
    w.equal().await;
    w.close(vec![pipe]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_savepoint_takes_back_is_free_at_once() {
    let w = World::new("savepoints").await;
    let pipe = w.pipe(Blue, Mode::Apply).await;
    let (a, b) = (w.client(Blue).await, w.client(Blue).await);
    run(
        &a,
        &[
            "BEGIN; SAVEPOINT s",
            "UPDATE t SET v = 'taken back' WHERE id > -51",
            "SAVEPOINT inner_one",
            &rows(1, 3_000),
            "RELEASE inner_one",
            "UPDATE t SET v = 'taken back too' WHERE id < -50",
        ],
    )
    .await;
    w.written(Green, 200).await;
    // Another one changes the same rows and commits while the large one goes on.
    run(&a, &["ROLLBACK TO s"]).await;
    run(&b, &["UPDATE t SET v = 'b'", "INSERT INTO t VALUES (1, 'b')"]).await;
    w.arrives(&pipe).await;
    assert_eq!(w.number(Green, "SELECT count(*) FROM t WHERE v = 'b'").await, 101);
    run(
        &a,
        &[
            &rows(10_000, 2_000),
            "SAVEPOINT kept",
            &rows(20_000, 2_000),
            "SAVEPOINT undone",
            &rows(30_000, 2_000),
            "ROLLBACK TO undone",
            &rows(30_000, 1_000),
            "RELEASE kept",
            "UPDATE t SET v = 'a' WHERE id = 20000 OR id = -1",
        ],
    )
    .await;
    w.written(Green, 500).await;
    assert_eq!(w.number(Green, "SELECT count(*) FROM t").await, 101);
    run(&a, &["COMMIT"]).await;
    w.arrives(&pipe).await;
    let view = pipe.view();
    assert_eq!((view.early, view.early_given_up), (1, 0), "{view:?}");
    assert_eq!(w.number(Green, "SELECT count(*) FROM t").await, 101 + 5_000);
    w.equal().await;
    w.close(vec![pipe]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_one_waits_and_others_are_applied_at_their_end() {
    let w = World::new("several").await;
    let pipe = w.pipe(Blue, Mode::Apply).await;
    let (a, b, c) = (w.client(Blue).await, w.client(Blue).await, w.client(Blue).await);
    run(&a, &["BEGIN", &rows(1, 3_000)]).await;
    w.written(Green, 200).await;
    run(&b, &["BEGIN", &rows(10_000, 3_000), "SAVEPOINT s", &rows(20_000, 2_000)]).await;
    run(&c, &["BEGIN", &rows(30_000, 3_000), "ROLLBACK"]).await;
    run(&b, &["ROLLBACK TO s", "INSERT INTO small VALUES (2, 2)", "COMMIT"]).await;
    w.arrives(&pipe).await;
    assert_eq!(pipe.view().early, 1);
    assert_eq!(w.number(Green, "SELECT count(*) FROM t").await, 3_100);
    // It rests on what the other one has committed.
    run(&a, &["UPDATE t SET v = 'a' WHERE id >= 10000", "COMMIT"]).await;
    w.arrives(&pipe).await;
    let view = pipe.view();
    assert_eq!((view.early, view.early_given_up), (1, 0), "{view:?}");
    w.equal().await;
    // More than rows, definitions apart, and too many subtransactions: at their end.
    for (i, more) in (1..).zip([
        "TRUNCATE small",
        "SELECT pg_logical_emit_message(true, 'x', 'y')",
        "DO $$ BEGIN FOR i IN 1..300 LOOP
           BEGIN INSERT INTO small VALUES (1000 + i, i); EXCEPTION WHEN division_by_zero THEN
             NULL; END; END LOOP; END $$",
    ]) {
        run(&a, &["BEGIN", &rows(40_000 + i * 5_000, 3_000), more]).await;
        run(&a, &[&rows(43_000 + i * 5_000, 2_000), "COMMIT"]).await;
        w.arrives(&pipe).await;
        let given_up = u64::try_from(i).unwrap();
        let view = pipe.view();
        assert_eq!((view.early, view.early_given_up), (1 + given_up, given_up), "{more}");
        w.equal().await;
    }
    w.close(vec![pipe]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_it_long() {
    let w = World::new("yields").await;
    // Rows can meet on green that never meet on blue.
    run(&w.green, &["CREATE UNIQUE INDEX only_here ON small (u)"]).await;
    let pipe = w.pipe(Blue, Mode::Apply).await;
    let (a, b) = (w.client(Blue).await, w.client(Blue).await);
    run(&a, &["BEGIN", "INSERT INTO small VALUES (1, 5)", &rows(1, 3_000)]).await;
    w.written(Green, 200).await;
    run(&b, &["INSERT INTO small VALUES (2, 5)"]).await;
    w.arrives(&pipe).await;
    assert_eq!(w.number(Green, "SELECT count(*) FROM small").await, 1);
    run(&a, &["DELETE FROM small WHERE id = 1", "COMMIT"]).await;
    w.arrives(&pipe).await;
    let view = pipe.view();
    assert_eq!((view.early, view.early_given_up, view.reconnects), (1, 1, 0), "{view:?}");
    w.equal().await;
    // Somebody else's lock.
    let size = w.size(Green).await;
    run(&a, &["BEGIN", &rows(10_000, 3_000)]).await;
    w.written(Green, size + 200).await;
    run(&w.client(Green).await, &["BEGIN; LOCK TABLE t IN SHARE MODE; COMMIT"]).await;
    run(&a, &[&rows(13_000, 1_000), "COMMIT"]).await;
    w.arrives(&pipe).await;
    let view = pipe.view();
    assert_eq!((view.early, view.early_given_up, view.reconnects), (2, 2, 0), "{view:?}");
    w.equal().await;
    w.close(vec![pipe]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_is_missing_is_the_same_stop() {
    let w = World::new("missing").await;
    run(&w.green, &["DELETE FROM t WHERE id = -7"]).await;
    let pipe = w.pipe(Blue, Mode::Apply).await;
    let a = w.client(Blue).await;
    run(&a, &["BEGIN", &rows(1, 3_000)]).await;
    w.written(Green, 200).await;
    run(&a, &["UPDATE t SET v = 'new' WHERE id = -7", &rows(5_000, 2_000)]).await;
    // Nothing is wrong before it commits.
    run(&w.blue, &["INSERT INTO small VALUES (1, 1)"]).await;
    w.arrives(&pipe).await;
    run(&a, &["COMMIT"]).await;
    w.stops(&pipe, "CUT0401").await;
    assert_eq!(w.number(Green, "SELECT count(*) FROM t WHERE id > 0").await, 0);
    // The remedy, and the same process again.
    drop(pipe);
    run(&w.green, &["INSERT INTO t VALUES (-7, 'old')"]).await;
    let pipe = w.pipe(Blue, Mode::Apply).await;
    w.arrives(&pipe).await;
    w.equal().await;
    w.close(vec![pipe]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_once_whoever_is_cut_off() {
    let w = World::new("cut").await;
    let mut pipe = w.pipe(Blue, Mode::Apply).await;
    let (a, b) = (w.client(Blue).await, w.client(Blue).await);
    for (i, (side, purpose)) in
        (0..).zip([(Green, "early"), (Green, "apply"), (Blue, "stream"), (Blue, "nobody")])
    {
        let size = w.size(Green).await;
        run(&a, &["BEGIN", "UPDATE t SET v = v || 'a'", &rows(1 + i * 10_000, 3_000)]).await;
        w.written(Green, size + 200).await;
        match purpose {
            // The process ends and another one begins.
            "nobody" => {
                drop(pipe);
                pipe = w.pipe(Blue, Mode::Apply).await;
            }
            purpose => w.cut(side, purpose).await,
        }
        run(&b, &[&format!("INSERT INTO small VALUES ({i}, {i})")]).await;
        w.arrives(&pipe).await;
        assert_eq!(w.number(Green, "SELECT count(*) FROM t").await, 100 + 5_000 * i64::from(i));
        run(&a, &[&rows(5_001 + i * 10_000, 2_000), "COMMIT"]).await;
        w.arrives(&pipe).await;
        w.equal().await;
    }
    w.close(vec![pipe]).await;
}

/// At the end of its transaction whoever has inserted into `t` waits for a lock.
const GATE: &str = "
    CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS
      $$ BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NEW; END $$;
    CREATE CONSTRAINT TRIGGER gate AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED
      FOR EACH ROW EXECUTE FUNCTION gate();
    ALTER TABLE t ENABLE ALWAYS TRIGGER gate";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_once_when_its_commit_gets_no_answer() {
    let w = World::new("unanswered").await;
    run(&w.green, &[GATE]).await;
    let mut pipe = w.pipe(Blue, Mode::Apply).await;
    let a = w.client(Blue).await;
    for (i, process_ends) in (0..).zip([false, true]) {
        let size = w.size(Green).await;
        run(&a, &["BEGIN", &rows(1 + i * 10_000, 3_000)]).await;
        w.written(Green, size + 200).await;
        run(&w.green, &["SELECT pg_advisory_lock(1)"]).await;
        run(&a, &["COMMIT"]).await;
        let in_commit = format!(
            "SELECT count(*) = 1 FROM pg_stat_activity
              WHERE application_name LIKE 'cutover {} early%' AND query = 'COMMIT'
                AND state = 'active' AND wait_event = 'advisory'",
            w.run
        );
        w.until(Green, "its COMMIT", &in_commit).await;
        if process_ends {
            drop(pipe);
            pipe = w.pipe(Blue, Mode::Apply).await;
        } else {
            w.cut(Green, "early").await;
        }
        w.until(Green, "the end of its session", &in_commit.replace("= 1", "= 0")).await;
        assert_eq!(
            w.number(Green, "SELECT count(*) FROM t WHERE id > 0").await,
            3_000 * i64::from(i)
        );
        run(&w.green, &["SELECT pg_advisory_unlock(1)"]).await;
        w.arrives(&pipe).await;
        w.equal().await;
    }
    w.close(vec![pipe]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_both_directions_and_not_when_it_only_watches() {
    let w = World::new("both").await;
    let forward = w.pipe(Blue, Mode::Apply).await;
    let back = w.pipe(Green, Mode::Watch).await;
    let (a, b) = (w.client(Blue).await, w.client(Green).await);
    run(&a, &["BEGIN", &rows(1, 3_000)]).await;
    w.written(Green, 200).await;
    let size = w.size(Green).await;
    run(&a, &["COMMIT", "BEGIN", &rows(10_000, 3_000)]).await;
    w.written(Green, size + 200).await;
    run(&a, &["ROLLBACK"]).await;
    w.arrives(&forward).await;
    w.arrives(&back).await;
    assert_eq!((forward.view().early, back.view().foreign), (2, 0), "ours did not come back");
    // A hold is kept while one is written, and the pipe stands still in spite of it.
    let size = w.size(Green).await;
    run(&a, &["BEGIN", &rows(20_000, 3_000)]).await;
    w.written(Green, size + 200).await;
    let held = forward.hold_at(HoldPoint::Now).unwrap();
    held.await.unwrap().unwrap();
    run(&a, &["COMMIT"]).await;
    assert_eq!(w.number(Green, "SELECT count(*) FROM t").await, 3_100);
    forward.release().await.unwrap();
    w.arrives(&forward).await;
    w.equal().await;
    // The modes are exchanged while blue still writes one: given up, and an alarm at its end.
    let size = w.size(Green).await;
    run(&a, &["BEGIN", &rows(30_000, 3_000)]).await;
    w.written(Green, size + 200).await;
    forward.set_mode(Mode::Watch).await.unwrap();
    back.set_mode(Mode::Apply).await.unwrap();
    w.until(
        Green,
        "its locks to be gone",
        "SELECT count(*) = 0 FROM pg_locks WHERE relation = 't'::regclass
            AND mode = 'RowExclusiveLock' AND pid <> pg_backend_pid()",
    )
    .await;
    run(&a, &["ROLLBACK"]).await;
    let size = w.size(Blue).await;
    run(&b, &["BEGIN", &rows(50_000, 3_000), "UPDATE t SET v = 'back' WHERE id < 0"]).await;
    w.written(Blue, size + 200).await;
    run(&b, &["COMMIT"]).await;
    w.arrives(&back).await;
    w.arrives(&forward).await;
    assert_eq!((back.view().early, forward.view().foreign), (1, 0));
    w.equal().await;
    // Somebody around the fence: seen, counted, and not applied.
    run(&a, &["BEGIN", &rows(60_000, 2_000), "COMMIT"]).await;
    w.arrives(&forward).await;
    assert_eq!((forward.view().foreign, forward.view().early), (2_000, 4));
    assert_eq!(w.number(Green, "SELECT count(*) FROM t WHERE id >= 60000").await, 0);
    w.close(vec![forward, back]).await;
}
