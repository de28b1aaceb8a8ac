//! The PgBouncer switch on a real PgBouncer with two real servers.

mod support;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::MetadataExt,
    time::Duration,
};

use cutover_core::{
    model::{
        finding::{Finding, Severity},
        side::Side,
    },
    port::switch::{Routing, SwitchError, TrafficSwitch},
};
use cutover_testkit::{
    Direction, FaultProxy,
    contract::switch::{self, SwitchHarness},
    wait_until, within,
};
use support::Rig;

const AMPLE: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(60);

fn at(side: Side, paused: bool) -> Routing {
    Routing { side: Some(side), paused: Some(paused) }
}

fn codes(findings: &[Finding]) -> Vec<(&str, Severity)> {
    findings.iter().map(|finding| (&*finding.code, finding.severity)).collect()
}

fn names(rig: &Rig) -> Vec<String> {
    let folder = rig.config.config.parent().unwrap();
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_passes_the_contract() {
    switch::check(&Rig::start(|options| options).await).await;
}

/// A login to a server that a PAUSE cuts off must not cost clients their connections, whatever
/// `server_login_retry` is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_thrown_out_while_pools_grow() {
    let rig = Rig::start(|options| options.set("server_login_retry", "15")).await;
    let switch = rig.new_switch();
    let mut clients = Vec::new();
    for _ in 0..60 {
        clients.push(rig.client().await);
    }
    for number in 0..16_u64 {
        let side = if number % 2 == 0 { Side::Green } else { Side::Blue };
        switch.warm_up().await.unwrap();
        // PgBouncer has no server connection left from the last move, and clients come one after
        // the other, before, during and after the pause.
        wait_until("no login is under way", PATIENCE, async || rig.logins().await == 0).await;
        rig.console("RECONNECT shop").await;
        let arrivals: Vec<_> = clients
            .drain(..)
            .zip(0_u64..)
            .map(|(mut client, place)| {
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(place)).await;
                    (client.write().await, client)
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(3 + number)).await;
        switch.pause(AMPLE).await.unwrap();
        switch.point_at(side).await.unwrap();
        for arrival in arrivals {
            let (written, client) = within("a client", PATIENCE, arrival).await.unwrap();
            assert!(written.is_ok(), "move {number}: {written:?}");
            clients.push(client);
        }
    }
}

/// A pause closes idle server connections while clients wait; most can be closed before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_idle_is_closed_ahead_and_what_is_in_use_stays() {
    let rig = Rig::start(|options| options.set("server_idle_timeout", "600")).await;
    let switch = rig.new_switch();
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut client = rig.client().await;
        client.begin().await.unwrap();
        clients.push(client);
    }
    let sessions = async || {
        let sql = "select count(*) from pg_stat_activity where usename = 'app'";
        rig.number(Side::Blue, sql).await
    };
    assert_eq!(sessions().await, 8);
    let mut busy = clients.pop().unwrap();
    for client in &mut clients {
        client.finish().await.unwrap();
    }
    wait_until("one session is left", PATIENCE, async || {
        switch.shed().await.unwrap();
        sessions().await == 1
    })
    .await;
    assert_eq!(rig.setting("server_idle_timeout").await, "600");
    // Nobody was thrown out, neither the one in the middle of a transaction nor those without a
    // server connection.
    assert_eq!(busy.finish().await, Ok(Side::Blue));
    for client in &mut clients {
        assert_eq!(client.write().await, Ok(Side::Blue));
    }
    // What a crash in the middle of it leaves.
    rig.console("SET server_idle_timeout = '0.05'").await;
    rig.new_switch().warm_up().await.unwrap();
    assert_eq!(rig.setting("server_idle_timeout").await, "600");
}

/// A pause comes in a quiet moment if there is one; pools do not grow from the search on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_moment_is_looked_for_and_settings_are_put_back() {
    let rig = Rig::start(|options| options).await;
    let switch = rig.new_switch();
    let mut busy = rig.client().await;
    busy.begin().await.unwrap();
    // There is none: it is not waited for without end, and the pause decides.
    within("a quiet moment", PATIENCE, switch.quiet()).await.unwrap();
    assert_eq!(rig.setting("max_db_connections").await, "1");
    let mut other = rig.client().await;
    let waits = tokio::spawn(async move { (other.write().await, other) });
    let ends = async {
        wait_until("it waits for the connection", PATIENCE, async || rig.waiting().await == 1)
            .await;
        busy.finish().await
    };
    let (paused, ended) = tokio::join!(switch.pause(AMPLE), ends);
    paused.unwrap();
    assert_eq!(ended, Ok(Side::Blue));
    assert_eq!(rig.setting("max_db_connections").await, "0");
    switch.point_at(Side::Green).await.unwrap();
    let (written, _) = within("whoever waited", PATIENCE, waits).await.unwrap();
    assert_eq!(written, Ok(Side::Green));
    // What a crash after it leaves.
    wait_until("logins are spaced as before", PATIENCE, async || {
        rig.setting("server_login_retry").await == "1"
    })
    .await;
    switch.quiet().await.unwrap();
    assert_ne!(rig.setting("max_db_connections").await, "0");
    // Or a pause that does not come.
    wait_until("pools may grow", PATIENCE, async || rig.setting("max_db_connections").await == "0")
        .await;
    switch.quiet().await.unwrap();
    assert_ne!(rig.setting("max_db_connections").await, "0");
    drop(switch);
    rig.new_switch().warm_up().await.unwrap();
    assert_eq!(rig.setting("max_db_connections").await, "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_keeps_everything_else() {
    let rig = Rig::start(|options| options).await;
    let path = &rig.config.config;
    rig.edit(|text| {
        let text = text.replace("[databases]\n", "; mine\n[databases]\n# shop moves\n");
        text.replace("dbname=postgres\n", "dbname=postgres pool_size=7 connect_query='select 1'\n")
    })
    .await;
    rig.console("RELOAD").await;
    let (before, like) = (fs::read_to_string(path).unwrap(), fs::metadata(path).unwrap());
    let switch = rig.new_switch();
    assert_eq!(codes(&switch.examine().await), []);
    switch.warm_up().await.unwrap();
    assert_eq!(fs::read_to_string(path).unwrap(), before, "preparing changes nothing");
    switch.pause(AMPLE).await.unwrap();
    switch.point_at(Side::Green).await.unwrap();

    let (blue, green) = (&rig.targets.blue, &rig.targets.green);
    let after = fs::read_to_string(path).unwrap();
    let port = |port: u16| format!("port={port} dbname=postgres pool_size=7");
    assert_eq!(after, before.replace(&port(blue.port), &port(green.port)));
    let now = fs::metadata(path).unwrap();
    assert_eq!((now.uid(), now.gid(), now.mode()), (like.uid(), like.gid(), like.mode()));
    assert_eq!(codes(&switch.examine().await), []);

    switch.point_at(Side::Blue).await.unwrap();
    assert_eq!(fs::read_to_string(path).unwrap(), before);
    drop(switch);
    let drafts = || names(&rig).iter().any(|name| name.contains(".cutover-"));
    assert!(!drafts(), "{:?}", names(&rig));
    // Also when the process dies with the pause prepared.
    fs::write(path.with_file_name(".pgbouncer.ini.cutover-4194305-3"), "old").unwrap();
    let next = rig.new_switch();
    next.warm_up().await.unwrap();
    assert!(!names(&rig).iter().any(|name| name.ends_with("-4194305-3")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_between_the_file_and_the_reload_is_seen_and_repaired() {
    let rig = Rig::start(|options| options).await;
    let (blue, green) = (rig.targets.blue.port, rig.targets.green.port);
    for target in [Side::Green, Side::Blue] {
        let start = rig.new_switch();
        start.point_at(Side::Blue).await.unwrap();
        start.pause(AMPLE).await.unwrap();
        drop(start);
        // What a process leaves that dies after the rename; it had also stopped pools from growing.
        rig.edit(|text| text.replace(&format!("port={blue} "), &format!("port={green} "))).await;
        rig.console("SET max_db_connections = 1").await;

        let next = rig.new_switch();
        assert_eq!(next.observe().await.unwrap(), at(Side::Blue, true));
        let found = next.examine().await;
        let want = [("CUT0725", Severity::Error), ("CUT0724", Severity::Error)];
        assert_eq!(codes(&found), want, "{found:?}");
        next.warm_up().await.unwrap();
        assert_eq!(next.observe().await.unwrap(), at(Side::Blue, true), "preparing moves nothing");
        next.point_at(target).await.unwrap();
        assert_eq!(next.observe().await.unwrap(), at(target, false));
        assert_eq!(rig.client().await.write().await, Ok(target));
        assert_eq!(rig.setting("max_db_connections").await, "0");
        wait_until("logins are spaced as before", PATIENCE, async || {
            rig.setting("server_login_retry").await == "1"
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_pgbouncer_does_not_read_is_put_back() {
    let rig = Rig::start(|options| options).await;
    let other = rig.config.config.with_file_name("other.ini");
    fs::copy(&rig.config.config, &other).unwrap();
    let before = fs::read(&other).unwrap();
    let switch = rig.switch_with(|config| config.config = other.clone());
    assert_eq!(codes(&switch.examine().await), [("CUT0724", Severity::Info)]);
    // Before anybody is held,
    switch.warm_up().await.unwrap();
    let error = switch.prove().await.unwrap_err();
    assert!(error.to_string().contains("does not read"), "{error}");
    assert_eq!(fs::read(&other).unwrap(), before);
    // and when it comes to that.
    let error = switch.point_at(Side::Green).await.unwrap_err();
    assert!(matches!(error, SwitchError::Refused { .. }), "{error:?}");
    assert_eq!(fs::read(&other).unwrap(), before);

    // A file that PgBouncer cannot read to its end is its fault and not ours, and is refused.
    rig.edit(|text| text.replace("[pgbouncer]\n", "[pgbouncer]\nno_such_setting = 1\n")).await;
    let before = fs::read(&rig.config.config).unwrap();
    let switch = rig.new_switch();
    switch.pause(AMPLE).await.unwrap();
    let answer = switch.point_at(Side::Green).await;
    // Versions differ in how much they take of a file that they do not like.
    match answer {
        Ok(()) => assert_eq!(switch.observe().await.unwrap(), at(Side::Green, false)),
        Err(error) => {
            assert!(matches!(error, SwitchError::Refused { .. }), "{error:?}");
            assert_eq!(fs::read(&rig.config.config).unwrap(), before);
            assert_eq!(switch.observe().await.unwrap().side, Some(Side::Blue));
        }
    }
}

/// What the proof changes is not there afterwards, also what a process left that was killed in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_the_file_is_read_is_proven_and_nothing_stays() {
    let rig = Rig::start(|options| options).await;
    let before = fs::read(&rig.config.config).unwrap();
    let shown = async || rig.shows("cutover_probe").await;
    for reloaded in [true, false] {
        let switch = rig.new_switch();
        switch.warm_up().await.unwrap();
        switch.prove().await.unwrap();
        // Once for this file,
        let file = || fs::metadata(&rig.config.config).unwrap().ino();
        let proven = file();
        switch.prove().await.unwrap();
        assert_eq!(file(), proven);
        // and process.
        rig.stop().await;
        rig.start().await;
        switch.warm_up().await.unwrap();
        switch.prove().await.unwrap();
        assert_ne!(file(), proven);
        assert_eq!(fs::read(&rig.config.config).unwrap(), before);
        assert!(!shown().await);
        switch.point_at(Side::Green).await.unwrap();
        switch.point_at(Side::Blue).await.unwrap();
        assert_eq!(fs::read(&rig.config.config).unwrap(), before);
        drop(switch);
        let entry = "\ncutover_probe = host=127.0.0.1 port=1 dbname=none";
        let text = String::from_utf8(before.clone()).unwrap();
        let line = text.lines().find(|line| line.starts_with("shop = ")).unwrap();
        fs::write(&rig.config.config, text.replace(line, &format!("{line}{entry}"))).unwrap();
        if reloaded {
            rig.console("RELOAD").await;
            assert!(shown().await);
        }
    }
    let switch = rig.new_switch();
    switch.warm_up().await.unwrap();
    switch.prove().await.unwrap();
    assert_eq!(fs::read(&rig.config.config).unwrap(), before);
    assert!(!shown().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_go_wrong_is_found_on_a_real_one() {
    let rig = Rig::start(|options| {
        let mut options = options
            .user("watcher", "w")
            .set("stats_users", "watcher")
            .set("query_wait_timeout", "1")
            .set("server_login_retry", "15");
        options.pool_mode = "session".to_owned();
        options
    })
    .await;
    let found = rig.new_switch().examine().await;
    let want = [
        ("CUT0726", Severity::Error),
        ("CUT0727", Severity::Error),
        ("CUT0727", Severity::Warning),
    ];
    assert_eq!(codes(&found), want, "{found:?}");
    // A move gives RELOAD, so what the remedies say has to outlive one.
    for finding in found.iter().filter(|finding| finding.code == "CUT0727") {
        let told = finding.remedy.split_once(" in /").expect("a setting in the file").0;
        let (name, value) = told.trim_start_matches("set ").split_once(" = ").unwrap();
        let (name, value) = (name.to_owned(), value.to_owned());
        let old = format!("{name} = {}", rig.setting(&name).await);
        rig.edit(|text| text.replace(&old, &format!("{name} = {value}"))).await;
    }
    let switch = rig.new_switch();
    switch.warm_up().await.unwrap();
    assert_eq!(codes(&switch.examine().await), want[..1]);

    let watcher = rig.switch_with(|config| {
        let port = config.admin.rsplit_once(':').unwrap().1.to_owned();
        config.admin = format!("postgres://watcher@127.0.0.1:{port}");
    });
    let wrong = codes(&watcher.examine().await).contains(&("CUT0720", Severity::Error));
    assert!(wrong, "the password of somebody else");
    let config = {
        let mut config = rig.config.clone();
        config.admin = config.admin.replace("pgbouncer@", "watcher:w@");
        config
    };
    let targets = rig.targets.clone();
    let watcher = cutover_switch::PgBouncerSwitch::new("p", config, None, targets).unwrap();
    assert!(codes(&watcher.examine().await).contains(&("CUT0721", Severity::Error)));
    for error in
        [watcher.pause(SHORT).await.unwrap_err(), watcher.point_at(Side::Green).await.unwrap_err()]
    {
        assert!(matches!(error, SwitchError::Refused { .. }), "{error:?}");
    }
    assert_eq!(watcher.observe().await.unwrap(), at(Side::Blue, false));

    let missing = rig.switch_with(|config| config.database.push("store".to_owned()));
    let found = missing.examine().await;
    assert_eq!(found.iter().filter(|finding| finding.code == "CUT0722").count(), 2, "{found:?}");
    let elsewhere = rig.switch_with(|config| {
        let target = |host: &str| {
            Some(cutover_switch::Target {
                host: host.to_owned(),
                port: 1,
                dbname: "postgres".to_owned(),
            })
        };
        (config.blue, config.green) = (target("a"), target("b"));
    });
    assert!(codes(&elsewhere.examine().await).contains(&("CUT0725", Severity::Error)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_databases_pause_together_or_not_at_all() {
    let rig = Rig::start(|options| {
        let first = options.databases[0].clone();
        options.database("report", &first.host, first.port, &first.dbname)
    })
    .await;
    let switch = rig.switch_with(|config| config.database.push("report".to_owned()));
    let mut shop = rig.client().await;
    let mut report = rig.client_of("report").await;
    report.begin().await.unwrap();
    let error = switch.pause(SHORT).await.unwrap_err();
    assert!(matches!(error, SwitchError::Refused { .. }), "{error:?}");
    assert_eq!(shop.write().await, Ok(Side::Blue), "both flow again");
    assert_eq!(report.finish().await, Ok(Side::Blue));

    switch.pause(AMPLE).await.unwrap();
    assert_eq!(switch.observe().await.unwrap(), at(Side::Blue, true));
    rig.console("RESUME report").await;
    let half = switch.observe().await.unwrap();
    assert_eq!(half, Routing { side: Some(Side::Blue), paused: None });
    switch.point_at(Side::Green).await.unwrap();
    assert_eq!((shop.write().await, report.write().await), (Ok(Side::Green), Ok(Side::Green)));
    assert_eq!(switch.observe().await.unwrap(), at(Side::Green, false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_consoles_do_not_deceive_it() {
    let rig = Rig::start(|options| options).await;
    let switch = rig.new_switch();
    // Somebody resumes while we wait for a transaction to end: PgBouncer never answers us then.
    let mut open = rig.client().await;
    open.begin().await.unwrap();
    let waiting = async {
        wait_until("it waits", PATIENCE, async || rig.paused("shop").await).await;
        rig.console("RESUME shop").await;
    };
    let (error, ()) = tokio::join!(switch.pause(Duration::from_secs(1)), waiting);
    assert!(error.is_err(), "a pause that somebody ended was reported as held");
    let mut other = rig.client().await;
    assert_eq!(other.write().await, Ok(Side::Blue));
    assert_eq!(open.finish().await, Ok(Side::Blue));

    // A pause of everything is somebody else's, and only they can end it.
    rig.console("PAUSE").await;
    let error = switch.pause(SHORT).await.unwrap_err();
    assert!(matches!(error, SwitchError::Refused { .. }), "{error:?}");
    assert!(format!("{error:?}").contains("already suspended/paused"), "{error:?}");
    rig.console("RESUME").await;
    switch.pause(AMPLE).await.unwrap();
    switch.point_at(Side::Blue).await.unwrap();
    assert_eq!(other.write().await, Ok(Side::Blue));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_fails_is_never_taken_for_an_answer() {
    let rig = Rig::start(|options| options).await;
    let port = rig.bouncer.lock().await.port();
    let proxy = FaultProxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await.unwrap();
    let far = || {
        rig.switch_with(|config| {
            config.admin = config.admin.replace(&port.to_string(), &proxy.port().to_string());
        })
    };
    let mut client = rig.client().await;

    // Answers are lost: the pause holds, and we must not say otherwise.
    let switch = far();
    switch.warm_up().await.unwrap();
    proxy.set(Direction::Down, |link| link.black_hole = true);
    let error = within("no answers", PATIENCE, switch.pause(SHORT)).await.unwrap_err();
    assert!(matches!(error, SwitchError::Ambiguous { .. }), "{error:?}");
    proxy.heal();
    within("repair", PATIENCE, async {
        let next = far();
        assert_eq!(next.observe().await.unwrap().side, Some(Side::Blue));
        next.point_at(Side::Blue).await.unwrap();
        assert_eq!(client.write().await, Ok(Side::Blue));
    })
    .await;

    // The connections break while a transaction keeps the pause waiting: clients are freed.
    let switch = far();
    switch.warm_up().await.unwrap();
    let mut open = rig.client().await;
    open.begin().await.unwrap();
    let breaking = async {
        wait_until("it waits", PATIENCE, async || rig.paused("shop").await).await;
        proxy.reset();
    };
    let (answer, ()) = tokio::join!(switch.pause(AMPLE), breaking);
    let error = answer.unwrap_err();
    assert!(matches!(error, SwitchError::Refused { .. }), "{error:?}");
    assert_eq!(client.write().await, Ok(Side::Blue));
    assert_eq!(open.finish().await, Ok(Side::Blue));

    // Kept sessions that died in the meantime are replaced.
    proxy.reset();
    switch.pause(AMPLE).await.unwrap();
    proxy.reset();
    switch.point_at(Side::Green).await.unwrap();
    assert_eq!(client.write().await, Ok(Side::Green));

    // Nobody can be reached at all: refused, and the file is as it was.
    let before = fs::read(&rig.config.config).unwrap();
    let switch = far();
    proxy.refuse(true);
    for error in
        [switch.pause(SHORT).await.unwrap_err(), switch.point_at(Side::Blue).await.unwrap_err()]
    {
        assert!(matches!(error, SwitchError::Refused { .. }), "{error:?}");
    }
    assert_eq!(fs::read(&rig.config.config).unwrap(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_console_can_be_reached_over_its_socket() {
    let folder = tempfile::tempdir().unwrap();
    // PgBouncer may run as another user.
    let all = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    fs::set_permissions(folder.path(), all).unwrap();
    let place = folder.path().display().to_string();
    let rig = Rig::start(|options| options.set("unix_socket_dir", &place)).await;
    let port = rig.bouncer.lock().await.port();
    let switch = rig.switch_with(|config| {
        config.admin = format!("postgres://pgbouncer@/pgbouncer?host={place}&port={port}");
    });
    assert_eq!(codes(&switch.examine().await), []);
    switch.pause(AMPLE).await.unwrap();
    switch.point_at(Side::Green).await.unwrap();
    assert_eq!(rig.client().await.write().await, Ok(Side::Green));
}

/// `cargo test -p cutover-switch --release --test pgbouncer -- --ignored --nocapture measures`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures and judges nothing"]
#[expect(clippy::print_stdout, reason = "its output is its result")]
async fn measures() {
    let line = |what: &str, mut times: Vec<Duration>| {
        times.sort();
        let last = times.len() - 1;
        println!("  {what:<36} median {:>9.1?}  worst {:>9.1?}", times[last / 2], times[last]);
    };
    for secret in [false, true] {
        println!("PgBouncer knows the {}", if secret { "SCRAM secret" } else { "password" });
        let rig = Rig::start_with(secret, |options| options).await;
        let moves = switch::measure(&rig, 32, 40).await;
        line("pause", moves.pauses);
        line("point_at", moves.points);
        line("point_at returned to first write", moves.first_writes);
        println!("  longest write of a client {:>29.1?}", moves.longest_write);
    }
}
