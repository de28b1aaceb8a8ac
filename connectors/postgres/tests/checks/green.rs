//! A database that is about to receive rows, with everything wrong.

use std::collections::BTreeSet;

use cutover_core::{
    model::{
        finding::Finding,
        inventory::Belonging,
        schema::{Table, TableName},
        side::Side,
    },
    port::examine::Examine,
};
use cutover_sandbox::{PgOptions, find_postgres, wait_until};

use crate::place::{PATIENCE, Place, codes, errors, pastable};

/// Everything that can be wrong with a database that is about to receive rows. Its tables have
/// been made by the user's own migrations.
const GREEN_WRONGS: &str = "
    CREATE SCHEMA app AUTHORIZATION app;
    CREATE TABLE app.fine (id int PRIMARY KEY);
    CREATE TABLE app.filled (id int PRIMARY KEY);
    INSERT INTO app.filled VALUES (1);
    CREATE TABLE app.\"Also Filled\" (id int PRIMARY KEY REFERENCES app.filled);
    INSERT INTO app.\"Also Filled\" VALUES (1);
    CREATE TABLE app.more (id int PRIMARY KEY, unknown int NOT NULL);
    CREATE TABLE app.subscribed (id int PRIMARY KEY);
    CREATE FUNCTION app.audit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
    CREATE TRIGGER audit AFTER INSERT ON app.fine FOR EACH ROW EXECUTE FUNCTION app.audit();
    ALTER TABLE app.fine ENABLE REPLICA TRIGGER audit;
    CREATE RULE twist AS ON DELETE TO app.fine DO ALSO SELECT 1;
    ALTER TABLE app.fine ENABLE ALWAYS RULE twist;
    CREATE SCHEMA cutover_shop;
    CREATE FUNCTION cutover_shop.fence() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
    CREATE TRIGGER cutover_shop_fence BEFORE INSERT ON app.fine EXECUTE FUNCTION cutover_shop.fence();
    ALTER TABLE app.fine ENABLE ALWAYS TRIGGER cutover_shop_fence;
    CREATE PUBLICATION cutover_shop FOR TABLE app.fine;
    CREATE PUBLICATION cutover_other FOR TABLE app.fine;
    SELECT pg_replication_origin_create('cutover_shop');
    SELECT pg_create_logical_replication_slot('cutover_shop', 'pgoutput');
";

#[tokio::test]
async fn a_green_with_everything_wrong_says_so_at_once_and_the_remedies_help() {
    for install in find_postgres() {
        let place = Place::start(&install, PgOptions::new()).await;
        place.sql(GREEN_WRONGS).await;
        place.hand_over().await;
        // Somebody else's replication, from a third database into a table of the run.
        place.server.create_database("upstream").await.unwrap();
        place
            .server
            .execute(
                "upstream",
                "CREATE SCHEMA app; CREATE TABLE app.subscribed (id int PRIMARY KEY); \
                 CREATE PUBLICATION feed FOR TABLE app.subscribed",
            )
            .await
            .unwrap();
        place
            .server
            .execute("upstream", "SELECT pg_create_logical_replication_slot('feed', 'pgoutput')")
            .await
            .unwrap();
        place
            .sql(&format!(
                "CREATE SUBSCRIPTION feed CONNECTION '{}' PUBLICATION feed \
                 WITH (create_slot = false, copy_data = false)",
                place.server.url("upstream")
            ))
            .await;
        place.sql("GRANT CONNECT ON DATABASE \"Shop\" TO app").await;
        let url = place.server.url_as("app", "secret", "Shop");
        let (application, connection) =
            tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        let connection = tokio::spawn(connection);

        let database = place.as_mover(Side::Green);
        let mut tables = place.tables().await;
        for table in &mut tables {
            table.columns.retain(|c| c.name != "unknown");
        }
        let mut question = place.question(Side::Green, tables);
        question.owners.push("Not Here".into());
        question.owned_in.push(("app".into(), "Not Here".into()));
        let findings = database.examine(&question).await.unwrap();
        // Rows of tables we may not read and sessions we may not see are unknown: that is what the
        // lacking rights say.
        let wanted = BTreeSet::from([
            "CUT0114", "CUT0116", "CUT0117", "CUT0119", "CUT0121", "CUT0122", "CUT0123", "CUT0131",
            "CUT0132", "CUT0138", "CUT0141", "CUT0142", "CUT0143", "CUT0150",
        ]);
        assert_eq!(codes(&findings), wanted, "{} {findings:#?}", install.major);

        place.server.create_role("Not Here", "secret", "").await.unwrap();
        for finding in findings.iter().filter(|f| pastable(f)) {
            place.follow(finding).await;
        }
        let findings = database.examine(&question).await.unwrap();
        assert_eq!(
            codes(&findings),
            BTreeSet::from(["CUT0133", "CUT0142", "CUT0147", "CUT0150"]),
            "{} {findings:#?}",
            install.major
        );
        let filled = findings.iter().find(|f| f.code == "CUT0133").unwrap();
        assert_eq!(filled.what, "there are rows in 2 tables already: app.Also Filled, app.filled");
        place.follow(filled).await;
        drop(application);
        connection.await.unwrap().unwrap();
        wait_until("only the notes to be left", PATIENCE, async || {
            codes(&database.examine(&question).await.unwrap())
                == BTreeSet::from(["CUT0142", "CUT0150"])
        })
        .await
        .unwrap();
    }
}

/// What blue has and the schema copy will make here: its rights are missing before the copy fails.
#[tokio::test]
async fn what_the_copy_will_make_here_is_looked_at_before() {
    for install in find_postgres() {
        let place = Place::start(&install, PgOptions::new()).await;
        place
            .sql(
                "CREATE SCHEMA app AUTHORIZATION app;
                 CREATE TABLE app.fine (id int PRIMARY KEY);
                 CREATE SCHEMA half;
                 GRANT CREATE ON SCHEMA half TO \"Mover\"",
            )
            .await;
        place.hand_over().await;
        let mut tables = place.tables().await;
        let later = Table { name: TableName::new("half", "later"), ..tables[0].clone() };
        tables.push(later);
        let mut question = place.question(Side::Green, tables);
        let root = place.server.user().to_owned();
        for (schema, owner) in [("app", "app"), ("Of Root", root.as_str()), ("mine", "Mover")] {
            question.schema_owners.insert(schema.into(), owner.into());
        }
        question.owned_in = [("app", "app"), ("half", "app"), ("new", "app")]
            .map(|(s, o)| (s.into(), o.into()))
            .into();
        question.forced.push(TableName::new("half", "later"));
        question.belongings = [("FUNCTION", "half", "f(integer)"), ("EVENT TRIGGER", "-", "watch")]
            .map(|(kind, schema, name)| Belonging {
                kind: kind.into(),
                schema: schema.into(),
                name: name.into(),
                owner: root.clone(),
                privileged: schema == "-",
            })
            .into();
        let database = place.as_mover(Side::Green);
        let findings = database.examine(&question).await.unwrap();
        let says = |code: &str, what: &str| {
            let found = findings.iter().filter(|f| f.code == code);
            assert!(found.clone().any(|f| f.what.contains(what)), "{code} {what}: {findings:#?}");
        };
        says("CUT0117", &format!("{root} (owns 1 schema on blue: Of Root)"));
        says("CUT0119", "lacks USAGE on 2 schemas: app, half");
        says("CUT0119", "may not make some in their schema: app in half");
        says("CUT0124", "on 1 table: half.later");
        let both = format!("function half.f(integer) of {root}, event trigger watch of {root}");
        says("CUT0187", &both);
        // What is there already is nobody's trouble.
        place.sql("CREATE FUNCTION half.f(int) RETURNS int LANGUAGE sql AS 'SELECT 1'").await;
        for finding in findings.iter().filter(|f| pastable(f)) {
            place.follow(finding).await;
        }
        let findings = database.examine(&question).await.unwrap();
        assert_eq!(errors(&findings), Vec::<&Finding>::new(), "{}", install.major);
        let left = findings.iter().find(|f| f.code == "CUT0187").unwrap();
        assert!(left.what.ends_with(&format!("there: event trigger watch of {root}")), "{left:?}");
        // Once the run has made its tables, they themselves are looked at.
        place.sql("ALTER ROLE \"Mover\" NOBYPASSRLS").await;
        question.resuming = true;
        let findings = database.examine(&question).await.unwrap();
        assert!(!codes(&findings).contains("CUT0124"), "{findings:#?}");
    }
}
