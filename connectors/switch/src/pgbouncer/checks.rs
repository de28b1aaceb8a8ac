//! Why a PgBouncer would fail as a switch: facts to findings, in a fixed order. Pure.

use std::time::Duration;

use cutover_core::model::finding::{Finding, Severity};

use super::facts::{Facts, Said, Trouble};

/// All findings about one PgBouncer.
pub(super) fn findings(switch: &str, facts: &Facts) -> Vec<Finding> {
    let mut list = List { switch, findings: Vec::new() };
    match &facts.console {
        Err(why) => list.add("CUT0720", Severity::Error, unreachable(facts, why), {
            "start PgBouncer, or correct `admin` and its password in the switch section; the \
             console is reached without TLS, so use the loopback address or the Unix socket when \
             client_tls_sslmode is require or stricter"
        }),
        Ok(said) => {
            admin(&mut list, facts, said);
            several_processes(&mut list, facts, said);
            state(&mut list, facts, said);
            modes(&mut list, said);
            waits(&mut list, facts, said);
            logins(&mut list, said);
        }
    }
    file(&mut list, facts);
    list.findings
}

struct List<'a> {
    switch: &'a str,
    findings: Vec<Finding>,
}

impl List<'_> {
    fn add(
        &mut self,
        code: &str,
        severity: Severity,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.findings.push(Finding {
            code: code.to_owned(),
            severity,
            place: self.switch.to_owned(),
            what: what.into(),
            remedy: remedy.into(),
        });
    }
}

fn unreachable(facts: &Facts, why: &str) -> String {
    format!("the admin console at {} cannot be used as {}: {why}", facts.place, facts.user)
}

fn admin(list: &mut List<'_>, facts: &Facts, said: &Said) {
    if !said.admin {
        list.add(
            "CUT0721",
            Severity::Error,
            format!("{} may look at the console but not give orders", facts.user),
            format!("add {} to admin_users in {} and RELOAD", facts.user, facts.path.display()),
        );
    }
}

fn several_processes(list: &mut List<'_>, facts: &Facts, said: &Said) {
    if said.settings.get("so_reuseport").is_some_and(|on| on == "1") {
        list.add(
            "CUT0728",
            Severity::Error,
            format!(
                "so_reuseport is on: any of several processes may answer at {}, and a PAUSE \
                 reaches only one of them",
                facts.place
            ),
            "list every process as a switch of its own, each with the Unix socket or the port \
             that only it has; when there is only one process, set so_reuseport = 0 and restart it",
        );
    }
}

fn state(list: &mut List<'_>, facts: &Facts, said: &Said) {
    let state = match &said.state {
        Ok(state) => state,
        Err(words) => {
            return list.add(
                "CUT0720",
                Severity::Error,
                format!("PgBouncer {} cannot be observed: {words}", said.version),
                "use PgBouncer 1.12 or later",
            );
        }
    };
    for name in &state.missing {
        list.add(
            "CUT0722",
            Severity::Error,
            format!("PgBouncer has no database {name}"),
            format!("add {name} to [databases] in {} and RELOAD", facts.path.display()),
        );
    }
    for row in state.ours.iter().filter(|row| row.disabled) {
        list.add(
            "CUT0725",
            Severity::Error,
            format!("database {} is disabled, so clients are turned away", row.name),
            format!("on the console: ENABLE {}", row.name),
        );
    }
    if state.whole_paused == Some(true) {
        list.add(
            "CUT0725",
            Severity::Error,
            "the whole PgBouncer is paused or suspended",
            "on the console: RESUME",
        );
    } else if let [first, ..] = state.paused()[..] {
        list.add(
            "CUT0725",
            Severity::Error,
            format!("database {} is paused: clients are held now", state.paused().join(", ")),
            format!("when no move is going on, on the console: RESUME {first}"),
        );
    }
    match said.routing.side {
        // Whether that is where the writes belong, who knows their owner says.
        Some(_) => {}
        None if state.missing.is_empty() => {
            let now: Vec<String> = state
                .ours
                .iter()
                .map(|row| {
                    let host = row.host.as_deref().unwrap_or("the default Unix socket");
                    format!("{} at {host}:{}/{}", row.name, row.port, row.dbname)
                })
                .collect();
            list.add(
                "CUT0725",
                Severity::Error,
                format!("PgBouncer points at neither side: {}", now.join(", ")),
                format!(
                    "write blue and green into the switch section exactly as PgBouncer has them \
                     (blue is {} for us), or correct [databases] and RELOAD",
                    facts.blue
                ),
            );
        }
        None => {}
    }
}

fn modes(list: &mut List<'_>, said: &Said) {
    let Ok(state) = &said.state else { return };
    let default = said.settings.get("pool_mode");
    for row in &state.ours {
        if row.pool_mode.as_ref().or(default).is_some_and(|mode| mode == "session") {
            list.add(
                "CUT0726",
                Severity::Error,
                format!(
                    "database {} uses session pooling: PAUSE waits until every client has gone",
                    row.name
                ),
                format!(
                    "set pool_mode=transaction for {} when its clients keep no session state, \
                     else use a switch of kind command",
                    row.name
                ),
            );
        }
    }
}

/// Limits after which PgBouncer throws waiting clients out.
fn waits(list: &mut List<'_>, facts: &Facts, said: &Said) {
    let budget = facts.pause_budget;
    for name in ["query_wait_timeout", "query_timeout", "client_login_timeout"] {
        let Some(limit) = seconds(said, name).filter(|limit| !limit.is_zero()) else { continue };
        // Whoever comes last waits for the pause, for a new server connection and for its turn.
        if limit < budget * 2 {
            list.add(
                "CUT0727",
                if limit <= budget { Severity::Error } else { Severity::Warning },
                format!(
                    "{name} is {limit:?}: clients that wait longer are disconnected, and a pause \
                     may take {budget:?}"
                ),
                in_file(facts, name, (budget * 10).as_secs().max(30)),
            );
        }
    }
    if let Some(retry) = seconds(said, "server_login_retry").filter(|r| *r > budget) {
        list.add(
            "CUT0727",
            Severity::Warning,
            format!(
                "server_login_retry is {retry:?}: when the first login after the pause fails, \
                 clients wait that long for the second"
            ),
            in_file(facts, "server_login_retry", 1),
        );
    }
}

/// A setting that stays: a move gives RELOAD, which takes back what `SET` on the console changed.
fn in_file(facts: &Facts, name: &str, value: u64) -> String {
    format!("set {name} = {value} in {}, then RELOAD on the console", facts.path.display())
}

/// What makes the first transactions after the pause slow.
fn logins(list: &mut List<'_>, said: &Said) {
    if said.settings.get("auth_user").is_some_and(|user| !user.is_empty()) {
        list.add(
            "CUT0727",
            Severity::Info,
            "auth_user is set: clients that connect during the pause wait for auth_query, which \
             is held as well",
            "nothing, when clients keep their connections; else set auth_dbname to a database \
             that is not paused",
        );
    }
}

fn file(list: &mut List<'_>, facts: &Facts) {
    let path = facts.path.display();
    let written = match &facts.file {
        Ok(written) => written,
        Err(Trouble::Access(why)) => {
            return list.add(
                "CUT0723",
                Severity::Error,
                format!("{path}: {why}"),
                format!(
                    "run cutover on the machine of PgBouncer, as root or as the owner of {path} \
                     with write access to its folder"
                ),
            );
        }
        Err(Trouble::Entry(why)) => {
            return list.add(
                "CUT0722",
                Severity::Error,
                format!("{path}: {why}"),
                "give every switched database exactly one entry of its own in [databases], and \
                 set `config` to the file that holds it (comments must stand on lines of their \
                 own)",
            );
        }
    };
    let Ok(said) = &facts.console else { return };
    if let Some(reads) = said.reads.as_ref().filter(|reads| **reads != written.path) {
        list.add(
            "CUT0724",
            Severity::Info,
            format!("PgBouncer was started with {}, not with {path}", reads.display()),
            format!("nothing, when {} includes {path}; else correct `config`", reads.display()),
        );
    }
    let Ok(state) = &said.state else { return };
    for (name, host, port, dbname) in &written.entries {
        let differs = state.ours.iter().any(|row| {
            row.name == *name && (&row.host, &row.port, &row.dbname) != (host, port, dbname)
        });
        if differs {
            list.add(
                "CUT0724",
                Severity::Error,
                format!("{path} says something else about {name} than PgBouncer does"),
                format!(
                    "correct {path}, then RELOAD on the console: the next RELOAD would move \
                         traffic"
                ),
            );
        }
    }
}

fn seconds(said: &Said, name: &str) -> Option<Duration> {
    let number: f64 = said.settings.get(name)?.parse().ok()?;
    Duration::try_from_secs_f64(number).ok()
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, path::PathBuf};

    use cutover_core::{model::side::Side, port::switch::Routing};

    use super::*;
    use crate::pgbouncer::{
        facts::Written,
        state::{Shown, State},
    };

    fn good() -> (Facts, Said) {
        let row = Shown {
            name: "shop".into(),
            host: Some("b".into()),
            port: 5432,
            dbname: "shop".into(),
            paused: false,
            disabled: false,
            pool_mode: None,
        };
        let settings = [
            ("pool_mode", "transaction"),
            ("query_wait_timeout", "120"),
            ("query_timeout", "0"),
            ("client_login_timeout", "60"),
            ("server_login_retry", "1"),
            ("so_reuseport", "0"),
            ("auth_user", ""),
        ];
        let said = Said {
            version: "1.18.0/bouncer".into(),
            admin: true,
            state: Ok(State { ours: vec![row], missing: Vec::new(), whole_paused: None }),
            routing: Routing { side: Some(Side::Blue), paused: Some(false) },
            settings: settings.into_iter().map(|(k, v)| (k.into(), v.into())).collect(),
            reads: Some("/etc/pgbouncer.ini".into()),
        };
        let facts = Facts {
            place: "h:6432".into(),
            user: "ops".into(),
            blue: "b:5432/shop".into(),
            path: "/etc/pgbouncer.ini".into(),
            pause_budget: Duration::from_secs(1),
            console: Err("replaced below".into()),
            file: Ok(Written {
                entries: vec![("shop".into(), Some("b".into()), 5432, "shop".into())],
                path: "/etc/pgbouncer.ini".into(),
            }),
        };
        (facts, said)
    }

    fn row(said: &mut Said) -> &mut Shown {
        &mut said.state.as_mut().unwrap().ours[0]
    }

    /// Codes and severities after one thing is changed.
    fn after(change: impl FnOnce(&mut Facts, &mut Said)) -> Vec<(String, Severity)> {
        let (mut facts, mut said) = good();
        change(&mut facts, &mut said);
        facts.console = Ok(said);
        let found = findings("pgbouncer[0]", &facts);
        assert!(found.iter().all(|f| f.place == "pgbouncer[0]" && !f.remedy.is_empty()));
        found.into_iter().map(|f| (f.code, f.severity)).collect()
    }

    fn set(name: &'static str, value: &'static str) -> impl FnOnce(&mut Facts, &mut Said) {
        move |_, said| {
            said.settings.insert(name.into(), value.into());
        }
    }

    #[test]
    fn nothing_is_said_of_a_good_one_nor_of_settings_that_are_not_shown() {
        assert_eq!(after(|_, _| {}), []);
        assert_eq!(after(|_, said| said.settings = HashMap::new()), []);
    }

    #[test]
    fn each_reason_has_its_code() {
        use Severity::{Error, Info, Warning};
        let one = |code: &str, severity| vec![(code.to_owned(), severity)];
        assert_eq!(after(|_, said| said.admin = false), one("CUT0721", Error));
        assert_eq!(after(set("so_reuseport", "1")), one("CUT0728", Error));
        assert_eq!(after(|_, said| said.state = Err("x".into())), one("CUT0720", Error));
        assert_eq!(
            after(|_, said| {
                said.state.as_mut().unwrap().missing.push("b".into());
                said.routing.side = None;
            }),
            one("CUT0722", Error)
        );
        assert_eq!(after(|_, said| row(said).disabled = true), one("CUT0725", Error));
        assert_eq!(after(|_, said| row(said).paused = true), one("CUT0725", Error));
        let whole = |_: &mut Facts, said: &mut Said| {
            said.state.as_mut().unwrap().whole_paused = Some(true);
        };
        assert_eq!(after(whole), one("CUT0725", Error));
        assert_eq!(after(|_, said| said.routing.side = None), one("CUT0725", Error));
        assert_eq!(after(|_, said| said.routing.side = Some(Side::Green)), []);
        assert_eq!(after(set("pool_mode", "session")), one("CUT0726", Error));
        assert_eq!(
            after(|_, said| row(said).pool_mode = Some("session".into())),
            one("CUT0726", Error)
        );
        assert_eq!(after(set("query_wait_timeout", "1")), one("CUT0727", Error));
        assert_eq!(after(set("query_wait_timeout", "1.5")), one("CUT0727", Warning));
        assert_eq!(after(set("query_wait_timeout", "0")), []);
        assert_eq!(after(set("query_timeout", "0.5")), one("CUT0727", Error));
        assert_eq!(after(set("client_login_timeout", "1")), one("CUT0727", Error));
        assert_eq!(after(set("server_login_retry", "15")), one("CUT0727", Warning));
        assert_eq!(after(set("auth_user", "asker")), one("CUT0727", Info));
        assert_eq!(
            after(|facts, _| facts.file = Err(Trouble::Access("no".into()))),
            one("CUT0723", Error)
        );
        assert_eq!(
            after(|facts, _| facts.file = Err(Trouble::Entry("no".into()))),
            one("CUT0722", Error)
        );
        assert_eq!(
            after(|_, said| said.reads = Some(PathBuf::from("/other.ini"))),
            one("CUT0724", Info)
        );
        assert_eq!(
            after(|facts, _| facts.file.as_mut().unwrap().entries[0].2 = 1),
            one("CUT0724", Error)
        );
    }

    #[test]
    fn a_console_that_does_not_answer_does_not_hide_the_file() {
        let (mut facts, _) = good();
        facts.file = Err(Trouble::Access("no".into()));
        let codes: Vec<String> =
            findings("p", &facts).into_iter().map(|finding| finding.code).collect();
        assert_eq!(codes, ["CUT0720", "CUT0723"]);
    }
}
