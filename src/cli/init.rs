//! `cutover init`: a commented configuration from what is there.

use std::{fmt::Write as _, io::Write as _, path::Path};

use cutover::{
    config::{
        self, Address,
        keys::{Given, Section},
        raw,
    },
    error::{Exit, Failure},
};
use cutover_core::model::run::RunId;
use serde_json::json;

use super::output::{Printer, thousands};
use crate::wiring::{self, Found};

pub(super) async fn init(
    file: &Path,
    blue: &str,
    green: &str,
    run: Option<&str>,
    printer: Printer,
) -> Result<Exit, Failure> {
    if file.exists() {
        return Err(exists(file));
    }
    if let Some(run) = run {
        RunId::new(run).map_err(|e| {
            Failure::new(e.to_string())
                .code("CUT0004")
                .remedy("for example --run shop-pg17")
                .exit(Exit::Usage)
        })?;
    }
    for url in [blue, green] {
        if Address::new(url).redacted().ends_with("://***") {
            return Err(Failure::new(
                "an address has an `@` among its parameters, and nobody can say what of it is secret",
            )
            .code("CUT0004")
            .remedy("write it as %40, or put user and password before the host")
            .exit(Exit::Usage));
        }
    }
    let found = wiring::look(blue, green).await?;
    let text = template(blue, green, run, &found);
    // What is written must be what `check` reads.
    let known = |_: &str| Some(String::new());
    config::parse(file, &text, &known)
        .map_err(|e| Failure::new("the new configuration would not be accepted").caused_by(&e))?;
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(file)
        .and_then(|mut f| f.write_all(text.as_bytes()))
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::AlreadyExists => exists(file),
            _ => Failure::new(format!("{} cannot be written", file.display()))
                .caused_by(&e)
                .remedy("name a file in a folder you may write, with -c"),
        })?;
    printer.answer(
        &json!({
            "file": file.display().to_string(),
            "schemas": found.schemas,
            "tables": found.tables,
            "versions": { "blue": found.versions[0], "green": found.versions[1] },
        }),
        &format!(
            "wrote {}\nblue   {}, {} tables in {}\ngreen  {}\n\nNext:\n  1. name the switch in it, \
             or leave it out to copy, follow and compare only\n  2. export BLUE_PASSWORD and \
             GREEN_PASSWORD\n  3. cutover check{}",
            file.display(),
            found.versions[0],
            thousands(found.tables as u64),
            match found.schemas.len() {
                1 => "schema ".to_owned() + &found.schemas[0],
                n => format!("{n} schemas"),
            },
            found.versions[1],
            if file == Path::new("./cutover.yaml") {
                String::new()
            } else {
                format!(" -c {}", file.display())
            }
        ),
    );
    Ok(Exit::Done)
}

fn exists(file: &Path) -> Failure {
    Failure::new(format!("{} exists already", file.display()))
        .code("CUT0022")
        .remedy("name another file with -c, or move this one away")
        .exit(Exit::Usage)
}

/// The address as it goes into the file: without its password, since the file names a variable.
fn public(url: &str) -> String {
    let shown = Address::new(url).redacted().replace(":***@", "@");
    let Some((address, query)) = shown.split_once('?') else { return shown };
    let kept: Vec<&str> = query.split('&').filter(|p| !p.ends_with("=***")).collect();
    if kept.is_empty() { address.to_owned() } else { format!("{address}?{}", kept.join("&")) }
}

/// A text as YAML writes it in any case.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn template(blue: &str, green: &str, run: Option<&str>, found: &Found) -> String {
    let run = run.map_or_else(|| found.suggested_run(), str::to_owned);
    // Patterns of schemas would leave behind what is outside of schemas, and schemas without tables.
    let schemas: Vec<String> = found.schemas.iter().map(|s| quoted(&format!("{s}.*"))).collect();
    let mut there = String::new();
    if !schemas.is_empty() {
        wrapped(&mut there, &format!("There are tables in {}.", schemas.join(", ")));
    }
    let mut out = String::from(
        "# Written by `cutover init` from what it found. docs/CONFIG.md explains every key.\n\n",
    );
    let mut key = |section: &Section, name: &str, lines: &str| {
        comment(&mut out, section, name);
        out.push_str(lines);
        out.push('\n');
    };
    let root = &raw::Root::SECTION;
    key(root, "run", &format!("run: {run}\n"));
    key(root, "state_dir", "state_dir: ./state\n");
    let side = |name: &str, url: &str, what: &str| {
        let variable = format!("{}_PASSWORD", name.to_uppercase());
        let url = quoted(&public(url));
        format!("# {what}\n{name}:\n  url: {url}\n  password: {{env: {variable}}}\n")
    };
    let tables = format!("{}, {} tables", found.versions[0], found.tables);
    key(root, "blue", &side("blue", blue, &tables));
    key(root, "green", &side("green", green, &found.versions[1]));
    key(root, "tables", &format!("{there}tables:\n  include: [\"*.*\"]\n  exclude: []\n"));
    key(root, "schema", "schema: copy\n");
    key(root, "copy", "copy:\n  workers: 4\n");
    key(
        root,
        "switch",
        &format!(
            "# switch:\n#   - pgbouncer:\n#       admin: \
             \"postgres://pgbouncer@127.0.0.1:6432/pgbouncer\"\n#       password: {{env: \
             PGBOUNCER_PASSWORD}}\n#       database: {}\n#       config: \
             /etc/pgbouncer/pgbouncer.ini\n",
            quoted(&found.database)
        ),
    );
    key(root, "move", "move:\n  pause_budget: 1s\n  max_lag: 5s\n");
    key(root, "rollback", "rollback:\n  window: 24h\n");
    key(root, "http", "http:\n  listen: \"127.0.0.1:8484\"\n");
    out.trim_end().to_owned() + "\n"
}

/// The meaning of a key as a comment, from its definition.
fn comment(out: &mut String, section: &Section, name: &str) {
    let Some(key) = section.key(name) else { return };
    let mut text = key.text();
    if let Given::Otherwise(what) = key.given
        && !what.starts_with("the defaults")
        && !text.contains("Without")
    {
        text.push_str(&format!(" Without it: {what}."));
    }
    wrapped(out, &text);
}

/// As lines of a comment.
fn wrapped(out: &mut String, text: &str) {
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > 96 {
            // Writing to a String cannot fail.
            writeln!(out, "{line}").ok();
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    writeln!(out, "{line}").ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> Found {
        Found {
            schemas: vec!["public".into(), "Odd \"name\"".into()],
            tables: 12,
            versions: ["PostgreSQL 15.6".into(), "PostgreSQL 17.2".into()],
            numbers: [150_006, 170_002],
            database: "shop".into(),
        }
    }

    #[test]
    fn the_file_holds_no_password_and_is_read_back() {
        let blue = "postgres://u:hun@ter2@blue:1/shop?sslmode=require";
        let green = "postgres://green/shop?user=u&password=hunter2";
        let text = template(blue, green, None, &found());
        assert!(!text.contains("ter2"), "{text}");
        let known = |_: &str| Some("x".to_owned());
        let config = config::parse(Path::new("cutover.yaml"), &text, &known).unwrap();
        assert_eq!(config.run.as_str(), "shop-pg17");
        assert_eq!(config.blue.url.expose(), "postgres://u@blue:1/shop?sslmode=require");
        // Schemas by name would leave behind what is outside of schemas.
        assert_eq!(config.tables.include, ["*.*"]);
        assert!(
            text.contains("# There are tables in \"public.*\", \"Odd \\\"name\\\".*\".\n"),
            "{text}"
        );
        assert!(config.switches.is_empty());
        // The switch works when its lines are uncommented.
        let with_switch: String = text
            .lines()
            .map(|l| match l.strip_prefix("# ") {
                Some(rest) if rest.starts_with("switch:") || rest.starts_with("  ") => rest,
                _ => l,
            })
            .map(|l| format!("{l}\n"))
            .collect();
        let config = config::parse(Path::new("cutover.yaml"), &with_switch, &known).unwrap();
        assert_eq!(config.switches[0].name, "pgbouncer[0]");
    }

    #[test]
    fn every_key_is_explained() {
        let text = template("postgres://u@b/d", "postgres://u@g/d", Some("x"), &found());
        for key in ["run", "state_dir", "blue", "green", "tables", "schema", "copy", "switch"] {
            let meaning = raw::Root::SECTION.key(key).unwrap().text();
            let first = meaning.split_whitespace().take(4).collect::<Vec<_>>().join(" ");
            assert!(text.contains(&format!("# {first}")), "{key}: {text}");
        }
        assert!(text.lines().all(|l| l.chars().count() <= 100), "{text}");
    }
}
