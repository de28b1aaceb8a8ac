//! Logins, TLS, and servers that are not what they should be.

use cutover_core::{
    model::{run::RunId, side::Side},
    port::{PortError, source::Source},
};
use cutover_postgres::{Database, connect::PgConfig};
use cutover_sandbox::{
    PgBouncer, PgBouncerOptions, PgOptions, Postgres, TlsOptions, find_postgres,
};
use cutover_testkit::{FaultProxy, wait_until, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket},
};

use crate::world::{PATIENCE, World, servers};

fn database(url: &str) -> Database {
    let config = PgConfig::parse(url, None).unwrap();
    Database::new(config, Side::Green, RunId::new("conn").unwrap(), std::path::Path::new("/none"))
}

/// Both kinds of session: an ordinary one, and a replication one with a slot in it.
async fn both(url: &str) -> Result<(), PortError> {
    let db = database(url);
    db.session("test").await?;
    db.snapshot_at_position().await.map(drop)
}

async fn refused(url: &str) -> PortError {
    let e = match database(url).session("test").await {
        Ok(_) => panic!("{url} works"),
        Err(e) => e,
    };
    let shown = format!("{e} {e:?}");
    assert!(!shown.contains("hunter2"), "{shown}");
    e
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates() {
    let install = find_postgres().pop().unwrap();
    let signed = TlsOptions { required: true, ..TlsOptions::default() };
    let alone = TlsOptions { required: true, self_signed: true, names: vec![] };
    let strange = TlsOptions {
        required: true,
        self_signed: false,
        names: vec!["DNS:elsewhere.example".to_owned()],
    };
    let start = |tls| Postgres::start(&install, PgOptions::new().tls(tls));
    let (signed, alone, strange) =
        (start(signed).await.unwrap(), start(alone).await.unwrap(), start(strange).await.unwrap());
    let ca = |s: &Postgres| s.ca_file().unwrap().display().to_string();
    let url = |s: &Postgres, more: &str| format!("{}?{more}", s.url("postgres"));

    for server in [&signed, &alone] {
        for mode in ["verify-full", "verify-ca", "require"] {
            both(&url(server, &format!("sslmode={mode}&sslrootcert={}", ca(server))))
                .await
                .unwrap();
        }
        both(&url(server, "sslmode=require")).await.unwrap();
        both(&url(server, "sslmode=prefer")).await.unwrap();
        // By name instead of by address.
        let named = server.url("postgres").replace("127.0.0.1", "localhost");
        both(&format!("{named}?sslmode=verify-full&sslrootcert={}", ca(server))).await.unwrap();
        let e = refused(&url(server, "sslmode=disable")).await;
        assert_eq!(e.code(), Some("CUT0011"), "{e}");
        // The authorities of the system know nothing of it.
        let e = refused(&url(server, "sslmode=verify-full")).await;
        assert_eq!(e.code(), Some("CUT0013"), "{e}");
    }
    // Another authority.
    for mode in ["verify-full", "verify-ca"] {
        let e = refused(&url(&signed, &format!("sslmode={mode}&sslrootcert={}", ca(&alone)))).await;
        assert_eq!(e.code(), Some("CUT0013"), "{e}");
    }
    // The right authority, another name.
    let root = ca(&strange);
    both(&url(&strange, &format!("sslmode=verify-ca&sslrootcert={root}"))).await.unwrap();
    let e = refused(&url(&strange, &format!("sslmode=verify-full&sslrootcert={root}"))).await;
    assert_eq!(e.code(), Some("CUT0013"), "{e}");
    let e = refused(&url(&signed, "sslmode=verify-full&sslrootcert=/nowhere.pem")).await;
    assert_eq!(e.code(), Some("CUT0013"), "{e}");

    // The session really is encrypted.
    let db = database(&url(&signed, &format!("sslmode=verify-full&sslrootcert={}", ca(&signed))));
    let session = db.session("test").await.unwrap();
    let row = session
        .query_one("select ssl from pg_catalog.pg_stat_ssl where pid = pg_backend_pid()", &[])
        .await
        .unwrap();
    assert!(row.get::<_, bool>(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_tls_where_it_is_asked_for() {
    let server = servers().await.last().unwrap();
    let e = refused(&format!("{}?sslmode=require", server.url("postgres"))).await;
    assert_eq!(e.code(), Some("CUT0013"), "{e}");
    both(&format!("{}?sslmode=prefer", server.url("postgres"))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_credentials_and_addresses() {
    for server in servers().await {
        let at = |user: &str, password: &str, db: &str| {
            format!("postgres://{user}:{password}@127.0.0.1:{}/{db}", server.port())
        };
        let e = refused(&at("postgres", "hunter2", "postgres")).await;
        assert_eq!(e.code(), Some("CUT0011"), "{e}");
        let e = refused(&at("nobody", "hunter2", "postgres")).await;
        assert_eq!(e.code(), Some("CUT0011"), "{e}");
        let e = refused(&format!("postgres://postgres@127.0.0.1:{}/postgres", server.port())).await;
        assert_eq!(e.code(), Some("CUT0011"), "{e}");
        let e = refused(&at("postgres", server.password(), "no_such_db")).await;
        assert_eq!(e.code(), Some("CUT0012"), "{e}");
        // The replication session says the same.
        let db = database(&at("postgres", server.password(), "postgres"));
        db.snapshot_at_position().await.map(drop).unwrap();
    }
    // Held, so that nobody else listens there.
    let silent = TcpSocket::new_v4().unwrap();
    silent.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let port = silent.local_addr().unwrap().port();
    let e = refused(&format!("postgres://u:hunter2@127.0.0.1:{port}/d")).await;
    assert!(e.is_transient(), "{e}");
    let e = refused("postgres://u:hunter2@no-such-host.invalid/d?connect_timeout=5").await;
    assert!(e.is_transient(), "{e}");
}

/// Whoever waits for an answer learns that nobody works on it, and nobody else does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_process_that_is_gone_without_a_word_is_noticed() {
    let server = servers().await.last().unwrap();
    let root = server.connect("postgres").await.unwrap();
    root.batch_execute("DROP DATABASE IF EXISTS pulse").await.unwrap();
    root.batch_execute("CREATE DATABASE pulse").await.unwrap();
    let client = server.connect("pulse").await.unwrap();
    client.batch_execute("SELECT pg_advisory_lock(1)").await.unwrap();

    let proxy = FaultProxy::start(([127, 0, 0, 1], server.port()).into()).await.unwrap();
    let url = server.url("pulse").replace(&server.port().to_string(), &proxy.port().to_string());
    let db = database(&format!("{url}?connect_timeout=1"));
    let waits = |session: cutover_postgres::connect::Session| {
        tokio::spawn(async move { session.batch_execute("SELECT pg_advisory_lock(1)").await })
    };
    let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    let count = async |text: &str| client.query_one(text, &[]).await.unwrap().get::<_, i64>(0);

    // One that nobody answers since its server waits for a lock.
    let patient = waits(db.session("test").await.unwrap());
    wait_until("it waits", PATIENCE, async || count(waiting).await == 1).await;
    let logins = "SELECT sessions FROM pg_stat_database WHERE datname = 'pulse'";
    let before = count(logins).await;
    wait_until("the server was asked", PATIENCE, async || count(logins).await > before).await;
    assert!(!patient.is_finished());
    client.batch_execute("SELECT pg_advisory_unlock(1)").await.unwrap();
    within("the lock", PATIENCE, patient).await.unwrap().unwrap();
    wait_until("its session is gone", PATIENCE, async || {
        client.query_one("SELECT pg_try_advisory_lock(1)", &[]).await.unwrap().get(0)
    })
    .await;

    // One whose server process ended, and nobody said so.
    let forgotten = waits(db.session("test").await.unwrap());
    wait_until("it waits", PATIENCE, async || count(waiting).await == 1).await;
    proxy.forget();
    let error = within("an end", PATIENCE, forgotten).await.unwrap().unwrap_err();
    assert!(error.is_closed(), "{error}");

    drop((proxy, client));
    root.batch_execute("DROP DATABASE pulse WITH (FORCE)").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_kinds_of_server() {
    // What a web server answers, and what MySQL says first.
    let mysql = b"J\0\0\0\x0a9.7.4\0\x08\0\0\0abcdefgh\0\xff\xff\xff\x02\0\xff\xdf\x15\0\0\0\0";
    let answers: [&[u8]; 2] = [b"HTTP/1.1 400 Bad Request\r\n\r\n", mysql];
    for answer in answers {
        for mode in ["prefer", "disable"] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let serve = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(answer).await.unwrap();
                // Until the client has had enough.
                let mut sink = Vec::new();
                stream.read_to_end(&mut sink).await.map(drop)
            });
            let e = refused(&format!(
                "postgres://u:hunter2@127.0.0.1:{port}/d?sslmode={mode}&connect_timeout=5"
            ))
            .await;
            assert_eq!(e.code(), Some("CUT0014"), "{e:?}");
            // A reset by the client is fine here.
            drop(serve.await.unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_is_not_a_database() {
    let server = servers().await.last().unwrap();
    for ignore in ["extra_float_digits", "extra_float_digits,options"] {
        let options = PgBouncerOptions::new()
            .database("postgres", server.host(), server.port(), "postgres")
            .user(server.user(), server.password())
            .set("ignore_startup_parameters", ignore);
        let pooler = PgBouncer::start(options).await.unwrap();
        let e = refused(&pooler.url_as(server.user(), server.password(), "postgres")).await;
        assert_eq!(e.code(), Some("CUT0014"), "{e}");
        let admin = pooler.admin_url();
        let admin = PgConfig::parse(&admin, Some(pooler.admin_password().to_owned())).unwrap();
        let db = Database::new(
            admin,
            Side::Green,
            RunId::new("conn").unwrap(),
            std::path::Path::new("/none"),
        );
        let e = db.session("test").await.map(drop).unwrap_err();
        assert_eq!(e.code(), Some("CUT0014"), "{e}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_never_hold_row_values() {
    let w = World::newest("discreet").await;
    w.sql("create table t (id int primary key, v int check (v < 5))").await;
    w.server.create_role("discreet", "pw", "").await.unwrap();
    // What the server says holds the row,
    let session = w.db.session("test").await.unwrap();
    let e = session.batch_execute("insert into public.t values (1, 987654)").await.unwrap_err();
    assert!(e.as_db_error().unwrap().detail().unwrap().contains("987654"));
    // and so may the message of an error that reaches us on a path of ours.
    w.sql(
        "create function boom() returns event_trigger language plpgsql as \
         $$ begin perform 'secret-987654'::int; end $$; \
         create event trigger boom on ddl_command_start execute function boom()",
    )
    .await;
    let tables = w.tables().await;
    let e = w.db.capture(&w.run, &tables, false).await.map(drop).unwrap_err();
    let shown = format!("{e} {e:?}");
    assert_eq!(e.code(), Some("CUT0016"), "{shown}");
    assert!(!shown.contains("987654"), "{shown}");
    w.sql("drop event trigger boom").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_carry_the_pass_and_the_settings() {
    for w in World::everywhere("settings").await {
        // The one other locale that every machine has.
        w.sql(&format!("alter database \"{}\" set lc_monetary = 'POSIX'", w.name)).await;
        let session = w.db.session("look around").await.unwrap();
        for (name, want) in [
            ("cutover.run", "cutover_settings"),
            ("application_name", "cutover settings look around"),
            ("search_path", ""),
            ("timezone", "UTC"),
            ("datestyle", "ISO, YMD"),
            ("lc_monetary", "C"),
            ("row_security", "off"),
            ("client_encoding", "UTF8"),
            ("default_transaction_isolation", "read committed"),
        ] {
            let row =
                session.query_one("select pg_catalog.current_setting($1)", &[&name]).await.unwrap();
            assert_eq!(row.get::<_, &str>(0), want, "{name} on {}", w.server.major());
        }
        assert_eq!(session.version() / 10_000, w.server.major());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_login_over_tcp_and_a_socket() {
    use std::os::unix::fs::PermissionsExt;

    let sockets = tempfile::tempdir_in("/tmp").unwrap();
    // The server runs as another user when the tests run as root.
    std::fs::set_permissions(sockets.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let folder = sockets.path().display().to_string();
    for install in find_postgres() {
        let options = PgOptions::new().set("unix_socket_directories", &folder);
        let mut server = Postgres::start(&install, options).await.unwrap();
        server
            .execute("postgres", "set password_encryption = 'md5'; create role old superuser login password 'hunter2'")
            .await
            .unwrap();
        let md5 = "select rolpassword like 'md5%' from pg_authid where rolname = 'old'";
        assert_eq!(server.query_text("postgres", md5).await.unwrap().as_deref(), Some("t"));
        let hba = server.data_dir().join("pg_hba.conf");
        for (method, password) in
            [("md5", "hunter2"), ("password", "hunter2"), ("trust", "anything")]
        {
            let lines = format!(
                "local all all {method}\nhost all all 127.0.0.1/32 {method}\n\
                 host replication all 127.0.0.1/32 {method}\n"
            );
            std::fs::write(&hba, lines).unwrap();
            server.stop(cutover_sandbox::StopMode::Fast).await.unwrap();
            server.start_again().await.unwrap();
            both(&server.url_as("old", password, "postgres")).await.unwrap();
            let socket =
                format!("postgres://old:{password}@:{}/postgres?host={folder}", server.port());
            both(&socket).await.unwrap();
            if method != "trust" {
                let e = refused(&socket.replace("hunter2", "hunter22")).await;
                assert_eq!(e.code(), Some("CUT0011"), "{e}");
                let wrong = server.url_as("old", "hunter22", "postgres");
                let e = database(&wrong).snapshot_at_position().await.map(drop).unwrap_err();
                assert_eq!(e.code(), Some("CUT0011"), "{e}");
            }
        }
    }
}
