//! What is shown of the configuration: the reference page and the effective values.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{
    checked::{Config, Credential, Database, LogFormat, Schema, SwitchKind},
    keys::{Given, Section},
    raw::SECTIONS,
    units::{format_duration, format_size},
};

/// A complete example; the tests read it.
pub const EXAMPLE: &str = include_str!("example.yaml");

impl Config {
    /// The effective values, defaults included and secrets left out: for reports and `plan --json`.
    #[must_use]
    pub fn public(&self) -> Value {
        json!({
            "run": self.run,
            "state_dir": self.state_dir,
            "blue": database(&self.blue),
            "green": database(&self.green),
            "tables": self.tables,
            "schema": match &self.schema {
                Schema::Copy => json!("copy"),
                Schema::Provided => json!("provided"),
                // A command may hold a password on its line.
                Schema::Run(commands) => json!({ "run": format!("{} commands", commands.len()) }),
            },
            "ddl": self.ddl,
            "copy": {
                "workers": self.copy.workers,
                "chunk": format_size(self.copy.chunk),
                "rate": self.copy.rate.map(format_size),
            },
            "verify": { "continuous": self.verify.continuous },
            "switch": self.switches.iter().map(|s| switch(&s.name, &s.kind)).collect::<Vec<_>>(),
            "move": {
                "pause_budget": format_duration(self.moves.pause_budget),
                "max_lag": format_duration(self.moves.max_lag),
            },
            "rollback": { "window": format_duration(self.rollback.window) },
            "http": self.http.as_ref().map(|h| json!({ "listen": h.listen.to_string() })),
            "log": {
                "format": match self.log.format {
                    LogFormat::Text => "text",
                    LogFormat::Json => "json",
                },
                "filter": self.log.filter,
            },
        })
    }
}

/// What a move depends on of effective values as [`Config::public`] gives them: whose run, between
/// which databases, of which tables, in front of which switches. The same for all who would make the
/// same move.
#[must_use]
pub fn move_mark(effective: &Value) -> String {
    let parts = ["run", "blue", "green", "tables", "switch"].map(|key| &effective[key]);
    format!("{:08x}", crc32fast::hash(json!(parts).to_string().as_bytes()))
}

fn database(database: &Database) -> Value {
    let mut value = json!({
        "url": database.url.redacted(),
        "password": database.password.as_ref().map(credential),
    });
    if let Some(read_from) = &database.read_from {
        value["read_from"] = read_from.redacted().into();
    }
    value
}

fn credential(credential: &Credential) -> String {
    format!("*** from {}", credential.origin)
}

fn switch(name: &str, kind: &SwitchKind) -> Value {
    match kind {
        SwitchKind::PgBouncer { admin, databases, config, blue, green } => json!({
            "name": name,
            "pgbouncer": {
                "admin": database(admin),
                "database": databases,
                "config": config,
                "blue": blue,
                "green": green,
            },
        }),
        // Arguments may hold a token.
        SwitchKind::Command { argv, timeout, env } => json!({
            "name": name,
            "command": {
                "program": argv.first(),
                "arguments": argv.len().saturating_sub(1),
                "timeout": format_duration(*timeout),
                "env": env,
            },
        }),
        SwitchKind::Webhook { url, observe_url, secret, timeout } => json!({
            "name": name,
            "webhook": {
                "url": url.redacted(),
                "observe_url": observe_url.as_ref().map(|u| u.redacted()),
                "secret": secret.as_ref().map(credential),
                "timeout": format_duration(*timeout),
            },
        }),
    }
}

/// The text of `docs/CONFIG.md`.
#[must_use]
pub fn page() -> String {
    let mut out = String::from(HEAD);
    out.push_str("\n## Example\n\n```yaml\n");
    out.push_str(EXAMPLE);
    out.push_str("```\n");
    for section in &SECTIONS {
        push_section(&mut out, section);
    }
    out
}

const HEAD: &str = "\
<!-- Written by the program from its own definitions; `UPDATE_DOCS=1 cargo test --test tidy` \
writes it again. -->

# Configuration

One YAML file, by default `./cutover.yaml`, else the one named with `-c`. `cutover init` writes one \
with comments.

- A key that is not known is refused, with the nearest known one.
- `${NAME}` in a text takes an environment variable; one that is not set is refused. `$${` stands \
for the characters `${`. A number or `true` is not a text.
- A duration is a whole number with `ms`, `s`, `m`, `h` or `d`; a size one with `B`, `KiB`, `MiB`, \
`GiB` or `TiB` (powers of 1024).
- A relative path starts at the folder of the file.
- Passwords are masked wherever the configuration is shown. `status`, `verify`, `switch` and the \
other commands that ask the running process need none.
- All of it is read once, when the command starts. A change counts from the next `cutover run` on; \
until then no move is made when it is one of `run`, databases, tables or switches ([CUT0737](errors/CUT0737.md)).
";

fn push_section(out: &mut String, section: &Section) {
    let title = if section.path.is_empty() { "The file" } else { section.path };
    let title = match section.path {
        "" => title.to_owned(),
        // Two mappings with the same keys.
        "blue" => "`blue` and `green`".to_owned(),
        "switch.pgbouncer.blue" => {
            "`switch.pgbouncer.blue` and `switch.pgbouncer.green`".to_owned()
        }
        path => format!("`{path}`"),
    };
    // Writing to a String cannot fail.
    let _ = write!(out, "\n## {title}\n\n{}\n", section.text());
    for key in section.keys {
        let given = match key.given {
            Given::Required => "required".to_owned(),
            Given::Default(value) => format!("default `{value}`"),
            Given::Otherwise(what) => format!("without it: {what}"),
        };
        let _ = write!(
            out,
            "\n### `{}`\n\n{}; {given}; since {}\n\n{}\n",
            if section.path.is_empty() {
                key.name.to_owned()
            } else {
                format!("{}.{}", section.path, key.name)
            },
            key.kind,
            key.since,
            key.text()
        );
    }
}
