//! The rules of the file, section by section: the file as written in, the checked one out.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use cutover_core::model::{run::RunId, selection::Selection};
use serde_saphyr::Spanned;

use super::{
    Environment, Home,
    checked::{
        Config, Copy, Credential, Database, Ddl, Http, Log, LogFormat, Move, Rollback, Schema,
        Switch, SwitchKind, Target, Verify,
    },
    problem::{BAD_VALUE, ConfigError},
    raw::{self, Root, Text},
    reader::{Reader, default_of},
    secret::{Address, Secret},
};

/// Applies every rule to the file as written.
pub(super) fn check(
    file: &Path,
    text: &str,
    root: &Root,
    environment: Environment<'_>,
) -> Result<Config, ConfigError> {
    let mut r = Reader::new(file, text, environment);
    let run = r.run(root);
    let state_dir = r.state_dir(root);
    let blue = r.database("blue", root.blue.as_ref());
    let green = r.database("green", root.green.as_ref());
    if let (Some(b), Some(g)) = (&blue, &green)
        && b.url == g.url
    {
        let at = root.green.as_ref().and_then(|d| d.url.as_ref());
        r.refuse("green.url", at, "is the address of blue", "name the successor's address");
    }
    let tables = r.tables(root.tables.as_ref());
    let schema = r.schema(root.schema.as_ref());
    let ddl = r.ddl(root.ddl.as_ref());
    let copy = r.copy(root.copy.as_ref());
    let continuous = r.flag("verify.continuous", |s: &raw::Verify| &s.continuous, &root.verify);
    let switches = r.switches(root.switch.as_deref().unwrap_or_default());
    let moves = Move {
        pause_budget: r.duration(
            "move.pause_budget",
            root.moves.as_ref().and_then(|m| m.pause_budget.as_ref()),
            Duration::from_millis(100)..=Duration::from_secs(300),
        ),
        max_lag: r.duration(
            "move.max_lag",
            root.moves.as_ref().and_then(|m| m.max_lag.as_ref()),
            Duration::from_millis(1)..=Duration::from_secs(3_600),
        ),
    };
    let rollback = Rollback {
        window: r.duration(
            "rollback.window",
            root.rollback.as_ref().and_then(|s| s.window.as_ref()),
            Duration::from_secs(1)..=Duration::from_secs(366 * 86_400),
        ),
    };
    let http = root.http.as_ref().and_then(|h| r.http(h));
    let log = r.log(root.log.as_ref());
    let (Some(run), Some(blue), Some(green), true) = (run, blue, green, r.problems.is_empty())
    else {
        return Err(ConfigError::Mistakes(r.problems));
    };
    let file = file.to_path_buf();
    Ok(Config {
        file,
        run,
        state_dir,
        blue,
        green,
        tables,
        schema,
        ddl,
        copy,
        verify: Verify { continuous },
        switches,
        moves,
        rollback,
        http,
        log,
    })
}

/// Applies only the rules of what tells where the run lives.
pub(super) fn home(
    file: &Path,
    text: &str,
    root: &Root,
    environment: Environment<'_>,
) -> Result<Home, ConfigError> {
    let mut r = Reader::new(file, text, environment);
    let run = r.run(root);
    let state_dir = r.state_dir(root);
    match run {
        Some(run) if r.problems.is_empty() => Ok(Home { file: file.to_path_buf(), run, state_dir }),
        _ => Err(ConfigError::Mistakes(r.problems)),
    }
}

impl Reader<'_> {
    fn run(&mut self, root: &Root) -> Option<RunId> {
        let text = self.required("run", root.run.as_ref())?;
        match RunId::new(&text) {
            Ok(run) => Some(run),
            Err(_) => {
                self.refuse(
                    "run",
                    root.run.as_ref(),
                    "is no name of a run",
                    "use 1 to 40 characters of a-z, 0-9 and '-', starting with a letter",
                );
                None
            }
        }
    }

    fn state_dir(&mut self, root: &Root) -> PathBuf {
        let text = root.state_dir.as_ref().and_then(|t| self.text("state_dir", t));
        self.path(text.as_deref().unwrap_or_else(|| default_of("state_dir")))
    }

    fn database(&mut self, path: &str, raw: Option<&raw::Database>) -> Option<Database> {
        let Some(raw) = raw else {
            self.missing(path);
            return None;
        };
        let database = self.endpoint(path, "url", raw.url.as_ref(), raw.password.as_ref());
        let given = raw.read_from.as_ref();
        let read_from = given.map(|text| self.address(&format!("{path}.read_from"), Some(text)));
        let (database, read_from) = (database?, read_from.flatten());
        if read_from.as_ref() == Some(&database.url) {
            let path = format!("{path}.read_from");
            let remedy = "name a standby of it, or leave `read_from` out";
            self.refuse(&path, raw.read_from.as_ref(), "is the address in `url`", remedy);
        }
        Some(Database { read_from, ..database })
    }

    fn endpoint(
        &mut self,
        path: &str,
        key: &str,
        url: Option<&Text>,
        password: Option<&Spanned<raw::Password>>,
    ) -> Option<Database> {
        let password = password.map(|p| self.credential(&format!("{path}.password"), p));
        let url = self.address(&format!("{path}.{key}"), url)?;
        match password {
            None => Some(Database { url, read_from: None, password: None }),
            Some(None) => None,
            Some(password) => Some(Database { url, read_from: None, password }),
        }
    }

    fn address(&mut self, path: &str, url: Option<&Text>) -> Option<Address> {
        let text = self.required(path, url)?;
        let address = Address::new(text);
        match address.scheme().as_str() {
            "postgres" | "postgresql" => Some(address),
            "" => {
                self.refuse(
                    path,
                    url,
                    "is no address",
                    "write it as postgres://user@host:5432/dbname",
                );
                None
            }
            other => {
                let what = format!("has the scheme `{other}`, which this version does not speak");
                self.refuse(path, url, &what, "use postgres://user@host:5432/dbname");
                None
            }
        }
    }

    fn credential(&mut self, path: &str, raw: &Spanned<raw::Password>) -> Option<Credential> {
        match &raw.value {
            raw::Password::Plain(secret) => {
                let secret = self.substitute(path, raw, secret.expose())?;
                let origin = "the configuration file".to_owned();
                Some(Credential { secret: Secret::new(secret), origin })
            }
            raw::Password::Env(name) => match (self.environment)(name) {
                Some(value) => {
                    Some(Credential { secret: Secret::new(value), origin: format!("env {name}") })
                }
                None => {
                    self.unset(path, raw, name);
                    None
                }
            },
            raw::Password::File(name) => {
                let from = self.path(name);
                match std::fs::read_to_string(&from) {
                    Ok(text) => {
                        let text = text.strip_suffix('\n').unwrap_or(&text);
                        let text = text.strip_suffix('\r').unwrap_or(text);
                        let origin = format!("file {name}");
                        Some(Credential { secret: Secret::new(text), origin })
                    }
                    Err(error) => {
                        self.problem(
                            "CUT0006",
                            Some(raw),
                            format!("{path}: {} cannot be read: {error}", from.display()),
                            "let the user who runs cutover read this file",
                        );
                        None
                    }
                }
            }
        }
    }

    fn tables(&mut self, raw: Option<&raw::Tables>) -> Selection {
        let default = Selection::default();
        let Some(raw) = raw else { return default };
        let mut patterns = |path: &str, list: Option<&Vec<Text>>| -> Option<Vec<String>> {
            let list = list?;
            let mut out = Vec::new();
            for item in list {
                let Some(text) = self.text(path, item) else { continue };
                match text.split_once('.') {
                    Some((schema, table)) if !schema.is_empty() && !table.is_empty() => {
                        out.push(text);
                    }
                    _ => self.refuse(
                        path,
                        Some(item),
                        "is no pattern of the form schema.table",
                        "name the schema too, for example public.users or public.*",
                    ),
                }
            }
            Some(out)
        };
        let include = patterns("tables.include", raw.include.as_ref());
        let exclude = patterns("tables.exclude", raw.exclude.as_ref());
        if raw.include.as_ref().is_some_and(Vec::is_empty) {
            self.problem::<()>(
                BAD_VALUE,
                None,
                "tables.include is empty: nothing would be moved".into(),
                "name at least one pattern, or leave the key out for every table",
            );
        }
        Selection {
            include: include.unwrap_or(default.include),
            exclude: exclude.unwrap_or(default.exclude),
        }
    }

    fn schema(&mut self, raw: Option<&Spanned<raw::Schema>>) -> Schema {
        let Some(raw) = raw else { return Schema::Copy };
        match &raw.value {
            raw::Schema::Copy => Schema::Copy,
            raw::Schema::Provided => Schema::Provided,
            raw::Schema::Run(section) => {
                let list = self.texts("schema.run", section.run.as_ref());
                if list.is_empty() {
                    self.problem(
                        BAD_VALUE,
                        Some(raw),
                        "schema.run names no command".into(),
                        "name at least one, or write `schema: copy`",
                    );
                }
                Schema::Run(list)
            }
        }
    }

    fn copy(&mut self, raw: Option<&raw::Copy>) -> Copy {
        let workers = raw.and_then(|c| c.workers.as_ref());
        let workers = match workers {
            Some(n) if (1..=64).contains(&n.value) => n.value,
            Some(n) => {
                let what = format!("copy.workers is {}", n.value);
                self.problem(BAD_VALUE, Some(n), what, "use a number from 1 to 64");
                1
            }
            None => default_of("copy.workers").parse().unwrap_or(1),
        };
        Copy {
            workers: usize::try_from(workers).unwrap_or(1),
            chunk: self.size(
                "copy.chunk",
                raw.and_then(|c| c.chunk.as_ref()),
                Some(default_of("copy.chunk")),
                64 << 10..=16 << 30,
            ),
            rate: raw
                .and_then(|c| c.rate.as_ref())
                .map(|rate| self.size("copy.rate", Some(rate), None, 64 << 10..=1 << 50)),
        }
    }

    fn switches(&mut self, raw: &[raw::Switch]) -> Vec<Switch> {
        let mut out: Vec<Switch> = Vec::new();
        for entry in raw {
            let (kind, switch) = match entry {
                raw::Switch::PgBouncer(s) => ("pgbouncer", self.pgbouncer(s)),
                raw::Switch::Command(s) => ("command", self.command(s)),
                raw::Switch::Webhook(s) => ("webhook", self.webhook(s)),
            };
            let nth = out.iter().filter(|s| s.name.starts_with(kind)).count();
            if let Some(switch) = switch {
                out.push(Switch { name: format!("{kind}[{nth}]"), kind: switch });
            }
        }
        out
    }

    fn pgbouncer(&mut self, raw: &raw::PgBouncer) -> Option<SwitchKind> {
        let path = "switch.pgbouncer";
        let admin = self.endpoint(path, "admin", raw.admin.as_ref(), raw.password.as_ref());
        let databases = self.names("switch.pgbouncer.database", raw.database.as_ref());
        let config = self.required("switch.pgbouncer.config", raw.config.as_ref());
        let blue = raw.blue.as_ref().map(|t| self.target("switch.pgbouncer.blue", t));
        let green = raw.green.as_ref().map(|t| self.target("switch.pgbouncer.green", t));
        Some(SwitchKind::PgBouncer {
            admin: admin?,
            databases: databases?,
            config: self.path(&config?),
            blue: blue.flatten(),
            green: green.flatten(),
        })
    }

    fn target(&mut self, path: &str, raw: &raw::Target) -> Option<Target> {
        let host = self.required(&format!("{path}.host"), raw.host.as_ref());
        let dbname = self.required(&format!("{path}.dbname"), raw.dbname.as_ref());
        let port = match &raw.port {
            None => default_of("switch.pgbouncer.blue.port").parse().ok(),
            Some(port) => {
                let number = u16::try_from(port.value).ok().filter(|n| *n > 0);
                if number.is_none() {
                    let what = format!("{path}.port is {}", port.value);
                    self.problem(BAD_VALUE, Some(port), what, "use a number from 1 to 65535");
                }
                number
            }
        };
        Some(Target { host: host?, port: port?, dbname: dbname? })
    }

    fn command(&mut self, raw: &raw::Command) -> Option<SwitchKind> {
        let argv = match &raw.argv {
            Some(list) => self.texts("switch.command.argv", Some(list)),
            None => {
                self.missing("switch.command.argv");
                return None;
            }
        };
        if argv.first().is_none_or(String::is_empty) {
            self.problem::<()>(
                BAD_VALUE,
                None,
                "switch.command.argv names no program".into(),
                "write it as [\"/path/to/program\", \"argument\"]",
            );
            return None;
        }
        let timeout = self.timeout("switch.command.timeout", raw.timeout.as_ref());
        let env = self.texts("switch.command.env", raw.env.as_ref());
        Some(SwitchKind::Command { argv, timeout, env })
    }

    fn webhook(&mut self, raw: &raw::Webhook) -> Option<SwitchKind> {
        let url = self.hook("switch.webhook.url", raw.url.as_ref());
        let observe = raw.observe_url.as_ref();
        let observe_url = observe.map(|u| self.hook("switch.webhook.observe_url", Some(u)));
        let secret = raw.secret.as_ref().map(|s| self.credential("switch.webhook.secret", s));
        let timeout = self.timeout("switch.webhook.timeout", raw.timeout.as_ref());
        Some(SwitchKind::Webhook {
            url: url?,
            observe_url: observe_url.flatten(),
            secret: secret.flatten(),
            timeout,
        })
    }

    fn hook(&mut self, path: &str, raw: Option<&Text>) -> Option<Address> {
        let address = Address::new(self.required(path, raw)?);
        if matches!(address.scheme().as_str(), "http" | "https") {
            return Some(address);
        }
        self.refuse(path, raw, "is no HTTP address", "write it as https://host/path");
        None
    }

    fn timeout(&mut self, path: &str, raw: Option<&Text>) -> Duration {
        self.duration(path, raw, Duration::from_millis(10)..=Duration::from_secs(300))
    }

    fn http(&mut self, raw: &raw::Http) -> Option<Http> {
        let text = match &raw.listen {
            Some(listen) => self.text("http.listen", listen)?,
            None => default_of("http.listen").to_owned(),
        };
        let numeric = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
        match numeric.as_deref().unwrap_or(&text).parse() {
            Ok(listen) => Some(Http { listen }),
            Err(_) => {
                self.refuse(
                    "http.listen",
                    raw.listen.as_ref(),
                    "is no IP address with a port",
                    "write it as 127.0.0.1:8484 or [::1]:8484",
                );
                None
            }
        }
    }

    fn ddl(&mut self, raw: Option<&Text>) -> Ddl {
        let text = raw.and_then(|t| self.text("ddl", t));
        match text.as_deref().unwrap_or_else(|| default_of("ddl")) {
            "stop" => Ddl::Stop,
            "apply" => Ddl::Apply,
            "ignore" => Ddl::Ignore,
            _ => {
                self.refuse("ddl", raw, "is no such policy", "use stop, apply or ignore");
                Ddl::Stop
            }
        }
    }

    fn log(&mut self, raw: Option<&raw::Log>) -> Log {
        let format = raw.and_then(|l| l.format.as_ref());
        let text = format.and_then(|t| self.text("log.format", t));
        let format = match text.as_deref().unwrap_or_else(|| default_of("log.format")) {
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            _ => {
                self.refuse("log.format", format, "is no format of logs", "use text or json");
                LogFormat::Text
            }
        };
        let filter = raw
            .and_then(|l| l.filter.as_ref())
            .and_then(|t| self.text("log.filter", t))
            .unwrap_or_else(|| default_of("log.filter").to_owned());
        Log { format, filter }
    }
}
