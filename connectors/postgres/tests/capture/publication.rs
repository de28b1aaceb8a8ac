//! The publication: nobody is in the way of the run, and the run is in nobody's.

use cutover_core::port::source::Source;
use cutover_sandbox::wait_until;

use crate::world::{PATIENCE, World};

/// A table is being tended for long (`VACUUM` holds this lock). Others of the same run can be
/// altered meanwhile, and whoever holds one table and wants another one gets it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_held_keeps_no_other_from_anybody() {
    for w in World::everywhere("held").await {
        w.sql("create table a (id int primary key); create table z (id int primary key)").await;
        let holder = w.client().await;
        let hold = "begin; lock table z in share update exclusive mode";
        holder.batch_execute(hold).await.unwrap();
        let (db, run, tables) = (w.db.clone(), w.run.clone(), w.tables().await);
        let publishing = tokio::spawn(async move { db.capture(&run, &tables, true).await });
        // It waits for `z`, or has given way already.
        let begun = "select exists (select from pg_publication_rel) or exists (select \
                     from pg_locks where not granted and relation = 'z'::regclass)";
        wait_until("the run to come by", PATIENCE, async || w.text(begun).await == "t")
            .await
            .unwrap();
        holder.batch_execute("lock table a in access exclusive mode").await.unwrap();
        assert!(!publishing.is_finished(), "{}", w.server.major());
        holder.batch_execute("commit").await.unwrap();
        let capture = publishing.await.unwrap().unwrap();
        assert_eq!(capture.since.len(), 2);
        drop(capture);
        // Whatever is held, the end waits for nobody.
        holder.batch_execute(hold).await.unwrap();
        w.release().await;
        holder.batch_execute("commit").await.unwrap();
    }
}
