//! The configuration after every rule: nothing optional that cannot be missing.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use cutover_core::model::{run::RunId, selection::Selection, side::Side};
use serde_saphyr::Spanned;

use super::{
    Environment, Home,
    problem::{BAD_VALUE, ConfigError, Problem, excerpt, place},
    raw::{self, Root, SECTIONS, Text},
    secret::{Address, Secret},
    units,
};

/// What the user wants.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it was read from.
    pub file: PathBuf,
    /// Name of the run.
    pub run: RunId,
    /// Folder of the journal, the control socket and the reports.
    pub state_dir: PathBuf,
    /// The database that owns the writes when the run begins.
    pub blue: Database,
    /// Its successor.
    pub green: Database,
    /// Which tables are moved.
    pub tables: Selection,
    /// Where green's tables come from.
    pub schema: Schema,
    /// How the initial rows are copied.
    pub copy: Copy,
    /// How the two sides are compared.
    pub verify: Verify,
    /// What decides where writes go; may be empty.
    pub switches: Vec<Switch>,
    /// The bounds of a move.
    pub moves: Move,
    /// The way back.
    pub rollback: Rollback,
    /// Status over HTTP; `None`: nothing listens.
    pub http: Option<Http>,
    /// Logs.
    pub log: Log,
}

/// Address and password of one database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    /// Its address, maybe with a password in it.
    pub url: Address,
    /// The password that wins over the one in the address.
    pub password: Option<Credential>,
}

/// A secret and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// The secret.
    pub secret: Secret,
    /// `env NAME`, `file PATH` or `the configuration file`.
    pub origin: String,
}

/// Where green's tables come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schema {
    /// Blue's definitions are copied.
    Copy,
    /// They are there already.
    Provided,
    /// They are copied, then these commands run (`/bin/sh -c`); never empty.
    Run(Vec<String>),
}

/// How the initial rows are copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// Ranges at the same time, 1 to 64.
    pub workers: usize,
    /// Bytes of a table in one range, at least 1 MiB.
    pub chunk: u64,
    /// Bytes per second of all workers together; `None`: no bound.
    pub rate: Option<u64>,
}

/// How the two sides are compared while the run waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verify {
    /// Again and again, not only when asked.
    pub continuous: bool,
}

/// One traffic switch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Switch {
    /// Unique in the run, for example `pgbouncer[0]`.
    pub name: String,
    /// Which kind, and its settings.
    pub kind: SwitchKind,
}

/// The kinds of switches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SwitchKind {
    /// A PgBouncer.
    PgBouncer {
        /// Its admin console.
        admin: Database,
        /// The entries of `[databases]`; never empty.
        databases: Vec<String>,
        /// Its configuration file.
        config: PathBuf,
        /// Blue as it reaches it, when that differs from `blue.url`.
        blue: Option<Target>,
        /// The same of green.
        green: Option<Target>,
    },
    /// A program; `argv` is never empty.
    Command {
        /// The program and its arguments.
        argv: Vec<String>,
        /// Longest time for one call.
        timeout: Duration,
    },
    /// A service.
    Webhook {
        /// Where the documents are posted.
        url: Address,
        /// Key of the signature.
        secret: Credential,
        /// Longest time for one request.
        timeout: Duration,
    },
}

/// One database as a pooler reaches it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Target {
    /// Host name, address, or folder of a Unix socket.
    pub host: String,
    /// TCP port; never 0.
    pub port: u16,
    /// Name of the database.
    pub dbname: String,
}

/// The bounds of a move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// Longest time in which clients wait.
    pub pause_budget: Duration,
    /// Largest lag with which a move may begin.
    pub max_lag: Duration,
}

/// The way back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollback {
    /// How long `run --until finished` keeps it open after the switch.
    pub window: Duration,
}

/// Status over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// Where it listens.
    pub listen: SocketAddr,
}

/// Logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// For people or for machines.
    pub format: LogFormat,
    /// What is logged.
    pub filter: String,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

impl Config {
    /// Address and password of one side.
    #[must_use]
    pub fn database(&self, side: Side) -> &Database {
        match side {
            Side::Blue => &self.blue,
            Side::Green => &self.green,
        }
    }

    /// Where the run lives.
    #[must_use]
    pub fn home(&self) -> Home {
        Home { file: self.file.clone(), run: self.run.clone(), state_dir: self.state_dir.clone() }
    }
}

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
    if let (Some(b), Some(g)) = (&blue, &green) {
        if b.url == g.url {
            let at = root.green.as_ref().and_then(|d| d.url.as_ref());
            r.refuse("green.url", at, "is the address of blue", "name the successor's address");
        }
    }
    let tables = r.tables(root.tables.as_ref());
    let schema = r.schema(root.schema.as_ref());
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

/// The default of a key as it would be written. `path` is dotted.
fn default_of(path: &str) -> &'static str {
    let (section, name) = path.rsplit_once('.').unwrap_or(("", path));
    let key = SECTIONS.iter().find(|s| s.path == section).and_then(|s| s.key(name));
    match key.map(|k| k.given) {
        Some(super::keys::Given::Default(value)) => value,
        _ => unreachable!("{path} is read with a default and defines none"),
    }
}

/// Reads values, substitutes, and collects what is wrong.
struct Reader<'a> {
    file: &'a Path,
    text: &'a str,
    environment: Environment<'a>,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    fn new(file: &'a Path, text: &'a str, environment: Environment<'a>) -> Self {
        Self { file, text, environment, problems: Vec::new() }
    }

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
        self.endpoint(path, "url", raw.url.as_ref(), raw.password.as_ref())
    }

    fn endpoint(
        &mut self,
        path: &str,
        key: &str,
        url: Option<&Text>,
        password: Option<&Spanned<raw::Password>>,
    ) -> Option<Database> {
        let password = password.map(|p| self.credential(&format!("{path}.password"), p));
        let path = format!("{path}.{key}");
        let text = self.required(&path, url)?;
        let address = Address::new(text);
        match address.scheme().as_str() {
            "postgres" | "postgresql" => {}
            "" => {
                self.refuse(
                    &path,
                    url,
                    "is no address",
                    "write it as postgres://user@host:5432/dbname",
                );
                return None;
            }
            other => {
                let what = format!("has the scheme `{other}`, which this version does not speak");
                self.refuse(&path, url, &what, "use postgres://user@host:5432/dbname");
                return None;
            }
        }
        match password {
            None => Some(Database { url: address, password: None }),
            Some(None) => None,
            Some(Some(password)) => Some(Database { url: address, password: Some(password) }),
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
                1 << 20..=16 << 30,
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

    fn names(&mut self, path: &str, raw: Option<&Spanned<raw::Names>>) -> Option<Vec<String>> {
        let Some(raw) = raw else {
            self.missing(path);
            return None;
        };
        let names: Vec<String> =
            raw.value.0.iter().filter_map(|name| self.substitute(path, raw, name)).collect();
        if names.is_empty() || names.iter().any(|name| name.trim().is_empty()) {
            self.problem(
                BAD_VALUE,
                Some(raw),
                format!("{path} names nothing"),
                "give it a name or a list of names",
            );
            return None;
        }
        Some(names)
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
        Some(SwitchKind::Command { argv, timeout })
    }

    fn webhook(&mut self, raw: &raw::Webhook) -> Option<SwitchKind> {
        let url = self.required("switch.webhook.url", raw.url.as_ref());
        let secret = match &raw.secret {
            Some(secret) => self.credential("switch.webhook.secret", secret),
            None => {
                self.missing("switch.webhook.secret");
                None
            }
        };
        let timeout = self.timeout("switch.webhook.timeout", raw.timeout.as_ref());
        let address = Address::new(url?);
        if !matches!(address.scheme().as_str(), "http" | "https") {
            self.refuse(
                "switch.webhook.url",
                raw.url.as_ref(),
                "is no HTTP address",
                "write it as https://host/path",
            );
            return None;
        }
        Some(SwitchKind::Webhook { url: address, secret: secret?, timeout })
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

    fn flag<S>(
        &mut self,
        path: &str,
        field: impl Fn(&S) -> &Option<Spanned<bool>>,
        section: &Option<S>,
    ) -> bool {
        section
            .as_ref()
            .and_then(|s| field(s).as_ref())
            .map_or_else(|| default_of(path) == "true", |flag| flag.value)
    }

    fn duration(
        &mut self,
        path: &str,
        raw: Option<&Text>,
        allowed: std::ops::RangeInclusive<Duration>,
    ) -> Duration {
        let text = raw.and_then(|t| self.text(path, t));
        let given = units::parse_duration(text.as_deref().unwrap_or_else(|| default_of(path)));
        match given {
            Some(d) if allowed.contains(&d) => d,
            Some(_) => {
                let remedy = format!(
                    "use {} to {}",
                    units::format_duration(*allowed.start()),
                    units::format_duration(*allowed.end())
                );
                self.refuse(path, raw, "is out of bounds", &remedy);
                *allowed.start()
            }
            None => {
                self.refuse(
                    path,
                    raw,
                    "is no duration",
                    "write a whole number with ms, s, m, h or d, for example 250ms",
                );
                *allowed.start()
            }
        }
    }

    fn size(
        &mut self,
        path: &str,
        raw: Option<&Text>,
        default: Option<&str>,
        allowed: std::ops::RangeInclusive<u64>,
    ) -> u64 {
        let text = raw.and_then(|t| self.text(path, t)).or_else(|| default.map(str::to_owned));
        match text.as_deref().and_then(|t| units::parse_size(t.trim_end_matches("/s"))) {
            Some(n) if allowed.contains(&n) => n,
            Some(_) => {
                let remedy = format!(
                    "use {} to {}",
                    units::format_size(*allowed.start()),
                    units::format_size(*allowed.end())
                );
                self.refuse(path, raw, "is out of bounds", &remedy);
                *allowed.start()
            }
            None => {
                self.refuse(
                    path,
                    raw,
                    "is no size",
                    "write a whole number with B, KiB, MiB, GiB or TiB, for example 16MiB",
                );
                *allowed.start()
            }
        }
    }

    fn texts(&mut self, path: &str, list: Option<&Vec<Text>>) -> Vec<String> {
        let list = list.map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(|t| self.text(path, t)).collect()
    }

    fn required(&mut self, path: &str, raw: Option<&Text>) -> Option<String> {
        let Some(raw) = raw else {
            self.missing(path);
            return None;
        };
        let text = self.text(path, raw)?;
        if text.trim().is_empty() {
            self.refuse(path, Some(raw), "is empty", "give it a value");
            return None;
        }
        Some(text)
    }

    /// A path of the file: relative ones start at the file's folder.
    fn path(&self, text: &str) -> PathBuf {
        let folder = self.file.parent().filter(|p| !p.as_os_str().is_empty());
        folder.unwrap_or(Path::new(".")).join(text.strip_prefix("./").unwrap_or(text))
    }

    fn text(&mut self, path: &str, raw: &Text) -> Option<String> {
        self.substitute(path, raw, &raw.value)
    }

    /// Replaces `${NAME}`; `$${` is a literal `${`.
    fn substitute<T>(&mut self, path: &str, at: &Spanned<T>, text: &str) -> Option<String> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            if let Some(before) = rest[..start].strip_suffix('$') {
                out.push_str(before);
                out.push_str("${");
                rest = &rest[start + 2..];
                continue;
            }
            out.push_str(&rest[..start]);
            let Some(end) = rest[start..].find('}') else {
                self.problem(
                    BAD_VALUE,
                    Some(at),
                    format!("{path} has a `${{` without a `}}`"),
                    "write ${NAME}, or $${ for these two characters",
                );
                return None;
            };
            let name = &rest[start + 2..start + end];
            match (self.environment)(name) {
                Some(value) => out.push_str(&value),
                None => {
                    self.unset(path, at, name);
                    return None;
                }
            }
            rest = &rest[start + end + 1..];
        }
        out.push_str(rest);
        Some(out)
    }

    fn unset<T>(&mut self, path: &str, at: &Spanned<T>, name: &str) {
        self.problem(
            "CUT0005",
            Some(at),
            format!("{path} needs the environment variable `{name}`, which is not set"),
            &format!("export {name} before the command, or write the value in another way"),
        );
    }

    fn missing(&mut self, path: &str) {
        let remedy = format!("add it, or write a new file with `cutover init`; {SEE}");
        self.problem::<()>(BAD_VALUE, None, format!("`{path}` is missing"), &remedy);
    }

    /// Refuses a value. The value is not repeated: the excerpt shows it where that is safe.
    fn refuse(&mut self, path: &str, at: Option<&Text>, what: &str, remedy: &str) {
        self.problem(BAD_VALUE, at, format!("{path} {what}"), remedy);
    }

    fn problem<T>(
        &mut self,
        code: &'static str,
        at: Option<&Spanned<T>>,
        what: String,
        remedy: &str,
    ) {
        let location = at.map(|at| at.referenced);
        self.problems.push(Problem {
            code,
            file: self.file.to_path_buf(),
            at: location.map(place),
            what,
            remedy: remedy.to_owned(),
            excerpt: location.and_then(|at| excerpt(self.text, at, false)),
        });
    }
}

const SEE: &str = "docs/CONFIG.md has an example";
