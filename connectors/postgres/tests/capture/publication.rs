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

/// What has no identity is not published: clients could not change it any more, nor what they
/// change in one statement with it.
#[tokio::test]
async fn clients_go_on_writing_what_has_no_identity() {
    for w in World::everywhere("unidentified").await {
        let major = w.server.major();
        let client = w.client().await;
        w.sql("create table t (id int primary key); create table plain (id int)").await;
        w.sql("insert into plain values (1)").await;
        let e = w.db.capture(&w.run, &w.tables().await, true).await.err().expect("no identity");
        assert_eq!(e.code(), Some("CUT0125"), "{e}");
        assert_eq!(w.text("select count(*) from pg_publication").await, "0", "{major}");
        client.execute("update plain set id = 2", &[]).await.unwrap();
        w.sql("alter table plain replica identity full").await;
        drop(w.db.capture(&w.run, &w.tables().await, true).await.unwrap());
        for (made, name, mended) in [
            ("create table new (id int)", "new", "alter table new add primary key (id)"),
            (
                "create table late (id int primary key deferrable)",
                "late",
                "alter table late replica identity full",
            ),
            // Nobody looks at the rows of a leaf that is left out.
            (
                "create table ev (id int, at int) partition by list (at);
                 create table ev_1 partition of ev for values in (1) partition by list (id);
                 create table ev_1_1 partition of ev_1 default;
                 create table left_out partition of ev default;
                 alter table ev_1_1 replica identity full; insert into ev values (1, 1)",
                "left_out",
                "alter table left_out replica identity full",
            ),
        ] {
            w.sql(made).await;
            let mut tables = w.tables().await;
            tables.retain(|t| t.name.name != "left_out");
            let e = w.db.resume(&w.run, &tables).await.err().unwrap_or_else(|| panic!("{made}"));
            assert_eq!(e.code(), Some("CUT0125"), "{major} {e}");
            assert!(e.to_string().ends_with(&format!(" \"public\".\"{name}\"")), "{major} {e}");
            assert!(e.remedy().unwrap().contains(&format!("\"{name}\" REPLICA IDENTITY FULL;")));
            let table = if name == "left_out" { "ev" } else { name };
            let update = format!("update {table} set id = id + 1; delete from {table}");
            client.batch_execute(&update).await.unwrap();
            w.sql(mended).await;
            assert!(w.db.resume(&w.run, &tables).await.unwrap().is_some(), "{major} {made}");
            client.batch_execute(&update).await.unwrap();
        }
        w.release().await;
    }
}
