//! What others than our role have to make on green.

use cutover_core::{
    model::selection::Selection,
    port::{schema::SchemaCopy, source::Source as _},
};
use cutover_postgres::schema::PgSchemaCopy;

use crate::{green_of, home::Home, pairs};

/// Ordinary roles can make no foreign server: what an administrator made before is taken as it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_servers_that_are_there_stay_as_they_are() {
    let servers = "CREATE FOREIGN DATA WRAPPER far; CREATE SERVER \"S one\" FOREIGN DATA WRAPPER far; \
                   CREATE USER MAPPING FOR PUBLIC SERVER \"S one\"; \
                   CREATE USER MAPPING FOR app SERVER \"S one\"; \
                   GRANT USAGE ON FOREIGN SERVER \"S one\" TO app; \
                   COMMENT ON SERVER \"S one\" IS 'far away'";
    for (blue_server, green_server) in pairs().await {
        let blue = Home::new(blue_server, "CREATE TABLE near (id int PRIMARY KEY)").await;
        let green = Home::new(green_server, "SELECT 1").await;
        let table = "SET ROLE app; CREATE FOREIGN TABLE away (id int) SERVER \"S one\"";
        blue.root.batch_execute(&format!("{servers}; {table}")).await.unwrap();
        // Told before the copy stops there.
        let told = blue.db.inventory(&Selection::default()).await.unwrap().belongings;
        let told: Vec<(&str, &str)> =
            told.iter().map(|it| (it.kind.as_str(), it.name.as_str())).collect();
        assert_eq!(told, [("FOREIGN DATA WRAPPER", "far"), ("SERVER", "S one")]);
        let copy = PgSchemaCopy::new(blue.db.clone(), green_of(&green));
        let e = copy.before_rows(&Selection::default()).await.unwrap_err();
        assert_eq!(e.code(), Some("CUT0305"), "{e}");
        green.root.batch_execute(servers).await.unwrap();
        copy.before_rows(&Selection::default()).await.unwrap();
        copy.after_rows(&Selection::default(), 2, None, false).await.unwrap();
        green.root.batch_execute("SELECT 'away'::regclass").await.unwrap();
    }
}

/// Made by a superuser, in the order in which the copy comes to them; the second half comes after the
/// rows.
const OF_OTHERS: [&[&str]; 2] = [
    &[
        "CREATE FUNCTION \"Auth\"(who text, n timestamp) RETURNS text LANGUAGE sql SECURITY DEFINER \
         AS 'SELECT rolpassword FROM pg_authid WHERE rolname = who'; \
         REVOKE ALL ON FUNCTION \"Auth\" FROM PUBLIC; GRANT EXECUTE ON FUNCTION \"Auth\" TO app; \
         COMMENT ON FUNCTION \"Auth\" IS 'for the pooler'",
        "CREATE FUNCTION watch() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
        "CREATE SEQUENCE of_others; GRANT USAGE ON SEQUENCE of_others TO app",
        "CREATE VIEW seen AS SELECT id FROM users; GRANT SELECT ON seen TO app; \
         COMMENT ON COLUMN seen.id IS 'all of them'",
    ],
    &[
        "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO app",
        "CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION watch()",
    ],
];

/// It was "already there", and the copy stopped again, whatever anybody did.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_made_stays_as_it_is() {
    for (blue_server, green_server) in pairs().await {
        let users = "CREATE TABLE users (id int PRIMARY KEY)";
        let blue = Home::new(blue_server, users).await;
        let green = Home::new(green_server, "SELECT 1").await;
        blue.root.batch_execute("CREATE SCHEMA \"Their own\"").await.unwrap();
        blue.root.batch_execute("COMMENT ON SCHEMA \"Their own\" IS 'x'").await.unwrap();
        green.root.batch_execute("CREATE SCHEMA \"Their own\"").await.unwrap();
        for text in OF_OTHERS.concat() {
            blue.root.batch_execute(text).await.unwrap();
        }
        let copy = PgSchemaCopy::new(blue.db.clone(), green_of(&green));
        let all = Selection::default();
        for (half, texts) in OF_OTHERS.iter().enumerate() {
            for text in *texts {
                let copied = match half {
                    0 => copy.before_rows(&all).await,
                    _ => copy.after_rows(&all, 2, None, false).await,
                };
                let e = copied.expect_err(text);
                assert_eq!(e.code(), Some("CUT0305"), "{e}");
                assert_eq!(e.code(), Some("CUT0305"), "{e}");
                assert!(e.remedy().unwrap().contains("as it is on blue"), "{e:?}");
                green.root.batch_execute(text).await.unwrap();
            }
            match half {
                0 => copy.before_rows(&all).await.unwrap(),
                _ => copy.after_rows(&all, 2, None, false).await.unwrap(),
            }
        }
    }
}

/// Only a superuser may act as whoever gave a right: the owner gives it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_that_others_gave_arrive() {
    for (blue_server, green_server) in pairs().await {
        for server in [blue_server, green_server] {
            // On one server twice.
            for role in ["lead", "deputy"] {
                server.execute("postgres", &format!("CREATE ROLE {role}")).await.ok();
            }
        }
        let users = "CREATE TABLE users (id int PRIMARY KEY, v int); GRANT USAGE ON SCHEMA public TO \
                     lead; GRANT SELECT, UPDATE (v) ON users TO lead WITH GRANT OPTION";
        let blue = Home::new(blue_server, users).await;
        let by_lead = "SET ROLE lead; GRANT SELECT, UPDATE (v) ON users TO deputy";
        blue.root.batch_execute(by_lead).await.unwrap();
        let green = Home::new(green_server, "SELECT 1").await;
        let copy = PgSchemaCopy::new(blue.db.clone(), green_of(&green));
        copy.before_rows(&Selection::default()).await.unwrap();
        let given = "SELECT has_table_privilege('deputy', 'users', 'SELECT') \
                     AND has_column_privilege('deputy', 'users', 'v', 'UPDATE')";
        assert!(green.root.query_one(given, &[]).await.unwrap().get::<_, bool>(0));
    }
}

/// Our role may make no grant on what comes with the server or with an extension, and a newer server may
/// not have it any more: the copy stopped there for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grants_on_what_comes_with_the_server_or_an_extension_stay_as_they_are() {
    for (blue_server, green_server) in pairs().await {
        let blue = Home::new(blue_server, "CREATE TABLE near (id int PRIMARY KEY)").await;
        let green = Home::new(green_server, "SELECT 1").await;
        // Its members belong to whoever made it.
        let extension = "CREATE EXTENSION pg_buffercache";
        green.root.batch_execute(extension).await.unwrap();
        let grants = "GRANT EXECUTE ON FUNCTION pg_stat_reset() TO app; \
                      GRANT EXECUTE ON FUNCTION pg_sleep(float8) TO app; \
                      GRANT SELECT ON pg_authid TO app; \
                      GRANT EXECUTE ON FUNCTION pg_buffercache_pages() TO app; \
                      GRANT SELECT ON pg_buffercache TO app";
        blue.root.batch_execute(&format!("{extension}; {grants}")).await.unwrap();
        if blue_server.major() < 15 {
            let gone = "GRANT EXECUTE ON FUNCTION pg_stop_backup() TO app";
            blue.root.batch_execute(gone).await.unwrap();
        }
        let told = blue.db.inventory(&Selection::default()).await.unwrap().builtin_grants;
        let told = told.iter().filter(|grant| grant.role == "app" && !grant.initial);
        let told: Vec<&str> = told.map(|grant| grant.object.as_str()).collect();
        let all = [
            "FUNCTION pg_catalog.pg_stat_reset()",
            "FUNCTION pg_catalog.pg_stop_backup()",
            "FUNCTION public.pg_buffercache_pages()",
            "TABLE pg_catalog.pg_authid",
            "TABLE public.pg_buffercache",
        ];
        let all = all.into_iter().filter(|it| blue_server.major() < 15 || !it.contains("backup"));
        assert_eq!(told, all.collect::<Vec<_>>());
        let there = green.db.inventory(&Selection::default()).await.unwrap();
        let given: Vec<_> = there.builtin_grants.iter().filter(|grant| !grant.initial).collect();
        assert!(!there.superuser && given.is_empty(), "{given:?}");

        let copy = PgSchemaCopy::new(blue.db.clone(), green_of(&green));
        copy.before_rows(&Selection::default()).await.unwrap();
        copy.after_rows(&Selection::default(), 2, None, false).await.unwrap();
        let may = "SELECT has_function_privilege('app', 'pg_stat_reset()', 'EXECUTE')";
        assert!(!green.root.query_one(may, &[]).await.unwrap().get::<_, bool>(0));
    }
}

/// The state of an aggregate is in no untrusted language: it was taken for what only a superuser makes,
/// and after a stop our own one for that of somebody else, without its grants.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aggregate_keeps_its_grants_over_a_stop() {
    for (blue_server, green_server) in pairs().await {
        let all = "SET ROLE app; \
                   CREATE AGGREGATE product(numeric) (sfunc = numeric_mul, stype = numeric, initcond = '1'); \
                   REVOKE ALL ON FUNCTION product(numeric) FROM PUBLIC; \
                   COMMENT ON AGGREGATE product(numeric) IS 'of all'";
        let blue = Home::new(blue_server, "CREATE TABLE near (id int PRIMARY KEY)").await;
        let green = Home::new(green_server, "SELECT 1").await;
        blue.root.batch_execute(all).await.unwrap();
        let server = "RESET ROLE; CREATE FOREIGN DATA WRAPPER far; CREATE SERVER far FOREIGN DATA WRAPPER far; \
                      GRANT USAGE ON FOREIGN SERVER far TO app";
        blue.root.batch_execute(server).await.unwrap();
        let table = "SET ROLE app; CREATE FOREIGN TABLE away (id int) SERVER far; RESET ROLE";
        blue.root.batch_execute(table).await.unwrap();
        let copy = PgSchemaCopy::new(blue.db.clone(), green_of(&green));
        copy.before_rows(&Selection::default()).await.unwrap_err();
        green.root.batch_execute(server).await.unwrap();
        copy.before_rows(&Selection::default()).await.unwrap();
        let closed = "SELECT proacl::text = '{app=X/app}' AND obj_description(oid) = 'of all' \
                      FROM pg_proc WHERE proname = 'product'";
        assert_eq!(
            green.root.query_one(closed, &[]).await.unwrap().get::<_, Option<bool>>(0),
            Some(true)
        );
        let made = blue.db.inventory(&Selection::default()).await.unwrap().belongings;
        assert!(!made.iter().any(|it| it.kind == "AGGREGATE"), "{made:?}");
    }
}
