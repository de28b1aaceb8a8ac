//! The architecture, checked: who may know whom, what every error has, what is generated.
//!
//! Each test names the rule it holds up; `docs/ARCHITECTURE.md` says why.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Rooms of the engine in reading order, and the ones each may use: only rooms above it.
const ROOMS: [(&str, &[&str]); 13] = [
    ("error", &[]),
    ("observe", &[]),
    ("journal", &["error"]),
    ("config", &["error"]),
    ("preflight", &["error", "transform"]),
    ("transform", &["error"]),
    ("copy", &["error", "transform", "journal", "observe"]),
    ("lag", &["observe"]),
    ("stream", &["error", "transform", "lag", "observe"]),
    ("verify", &["error", "transform", "observe"]),
    ("cutover", &["error", "journal", "preflight", "stream", "lag", "verify", "observe"]),
    (
        "run",
        &[
            "error",
            "observe",
            "journal",
            "config",
            "preflight",
            "transform",
            "copy",
            "lag",
            "stream",
            "verify",
            "cutover",
        ],
    ),
    ("web", &["error", "observe", "run"]),
];

/// Parts of the program that may name connectors.
const WIRING: [&str; 2] = ["src/wiring", "src/demo"];

/// Crates of drivers and of I/O that the language of the connectors must not know.
const DRIVERS: [&str; 14] = [
    "tokio",
    "tokio-postgres",
    "postgres-protocol",
    "tokio-rustls",
    "rustls",
    "ureq",
    "axum",
    "hyper",
    "mysql_async",
    "mysql_common",
    "rdkafka",
    "tempfile",
    "tracing",
    "serde_json",
];

const LONGEST_FILE: usize = 600;

/// Files that are longer, and why.
const LONG_FILES: [(&str, &str); 1] =
    [("src/cutover/sim.rs", "one exhaustive simulation with its world, faults and checks")];

/// Codes that only tests use.
const TEST_CODES: [&str; 1] = ["CUT0000"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `folder` with that extension, as (path from the root, text).
fn files(folder: &str, extension: &str) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.expect("a readable folder").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                if !name.starts_with('.') && name != "target" {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|e| e == extension) {
                let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
                let name = path.strip_prefix(root()).expect("below the root");
                out.push((name.display().to_string(), text));
            }
        }
    }
    out.sort();
    out
}

fn sources() -> Vec<(String, String)> {
    let mut all = files("src", "rs");
    all.extend(files("connectors", "rs"));
    all.extend(files("tests", "rs"));
    all
}

/// Source text without comments (line comments only; the project has no others).
fn code(text: &str) -> String {
    text.lines().map(|l| l.split("//").next().unwrap_or(l)).collect::<Vec<_>>().join("\n")
}

fn none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

/// First segments of every path that begins with `crate::`, also inside of braces.
fn rooms_used(text: &str) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        if !rest.starts_with('{') {
            out.insert(word(rest));
            continue;
        }
        let (mut depth, mut fresh) = (0, true);
        for (i, c) in rest.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' => fresh = true,
                c if depth == 1 && fresh && (c.is_alphabetic() || c == '_') => {
                    out.insert(word(&rest[i..]));
                    fresh = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    out
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[test]
fn the_reader_of_paths_reads_them() {
    let text = "use crate::{\n a::B, c::{d, e},\n f};\ncrate::g::h(); use super::x;";
    assert_eq!(rooms_used(text).into_iter().collect::<Vec<_>>(), ["a", "c", "f", "g"]);
}

/// **Invariant:** a room uses only rooms above it.
#[test]
fn rooms_know_only_rooms_above() {
    let mut order: Vec<&str> = ROOMS.iter().map(|(room, _)| *room).collect();
    // Preflight asks how rows travel; both rooms know nobody else.
    let at = |room: &str| order.iter().position(|r| *r == room);
    for (room, may) in ROOMS {
        for other in may {
            let above = at(other) < at(room) || (room == "preflight" && *other == "transform");
            assert!(above, "the table is no order: {room} uses {other}");
        }
    }
    order.extend(["cli", "wiring", "demo"]);
    let mut found = Vec::new();
    for (path, text) in files("src", "rs") {
        let room = path.trim_start_matches("src/").split(['/', '.']).next().unwrap_or_default();
        let Some((_, may)) = ROOMS.iter().find(|(name, _)| *name == room) else {
            assert!(
                ["lib", "main", "cli", "wiring", "demo"].contains(&room),
                "{path} belongs to no room of the table"
            );
            continue;
        };
        for used in rooms_used(&code(&text)) {
            if order.contains(&used.as_str()) && used != room && !may.contains(&used.as_str()) {
                found.push(format!("{path}: {room} must not know {used}"));
            }
        }
    }
    none("rooms that know what they must not", &found);
}

/// The list of rooms in `lib.rs` is the table, in order, and nothing else is public.
#[test]
fn the_door_sign_of_the_engine_names_every_room() {
    let text = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let declared: BTreeSet<String> = text
        .lines()
        .filter_map(|l| l.strip_prefix("pub mod "))
        .map(|l| l.trim_end_matches(';').to_owned())
        .collect();
    let table: BTreeSet<String> = ROOMS.iter().map(|(room, _)| (*room).to_owned()).collect();
    assert_eq!(declared, table);
    let mut last = 0;
    for (room, _) in ROOMS {
        let at = text.find(&format!("//! - [`{room}`]: "));
        let at = at.unwrap_or_else(|| panic!("{room} is not in the list of lib.rs"));
        assert!(at > last, "{room} is out of order in the list of lib.rs");
        last = at;
    }
}

/// **Invariant:** only the wiring (and the demo, which builds a world to wire) names connectors.
#[test]
fn connectors_are_named_only_by_the_wiring() {
    let connectors = ["cutover_postgres", "cutover_switch", "cutover_sandbox"];
    let mut found = Vec::new();
    for (path, text) in files("src", "rs") {
        if WIRING.iter().any(|w| path.starts_with(w)) {
            continue;
        }
        for name in connectors.iter().filter(|name| code(&text).contains(**name)) {
            found.push(format!("{path}: {name}"));
        }
    }
    none("connectors named outside of the wiring", &found);
}

/// Dependencies of a manifest: (section, name).
fn dependencies(manifest: &str) -> Vec<(String, String)> {
    let mut section = String::new();
    let mut out = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
        } else if section.ends_with("dependencies")
            && let Some((name, _)) = line.split_once(['.', '=', ' '])
            && !name.starts_with('#')
        {
            out.push((section.clone(), name.trim_matches('"').to_owned()));
        }
    }
    out
}

/// **Invariant:** a connector knows `core` and no other connector; `core` knows no driver.
#[test]
fn connectors_know_core_and_nobody_else() {
    let mut found = Vec::new();
    let mut seen = 0;
    for (path, text) in files("connectors", "toml") {
        let Some(name) =
            path.strip_prefix("connectors/").and_then(|p| p.strip_suffix("/Cargo.toml"))
        else {
            continue;
        };
        seen += 1;
        for (section, dependency) in dependencies(&text) {
            let ours = dependency == "cutover" || dependency.starts_with("cutover-");
            let tests_only = section.starts_with("dev-")
                && ["cutover-testkit", "cutover-sandbox"].contains(&dependency.as_str());
            if ours && dependency != "cutover-core" && !tests_only {
                found.push(format!("{path}: {name} must not know {dependency} ({section})"));
            }
            if ours && name == "sandbox" {
                found.push(format!("{path}: the sandbox knows nothing of the project"));
            }
            if name == "core" && !section.starts_with("dev-") && DRIVERS.contains(&&*dependency) {
                found.push(format!("{path}: core must not know {dependency}"));
            }
        }
    }
    assert!(seen >= 5, "the connectors were not found");
    none("dependencies that break the layout", &found);
}

/// Test kits and connectors are optional or for tests, so that the engine builds without them.
#[test]
fn the_engine_needs_no_connector() {
    let text = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let section = text.split("\n[dependencies]\n").nth(1).unwrap();
    let section = section.split("\n[").next().unwrap();
    let found: Vec<String> = section
        .lines()
        .filter(|l| l.starts_with("cutover-") && !l.starts_with("cutover-core"))
        .filter(|l| !l.contains("optional = true"))
        .map(str::to_owned)
        .collect();
    none("connectors that are not optional", &found);
}

#[test]
fn files_are_short_enough_to_be_read() {
    let mut found = Vec::new();
    for (path, text) in sources() {
        let lines = text.lines().count();
        let excused = LONG_FILES.iter().any(|(name, _)| *name == path);
        if lines > LONGEST_FILE && !excused {
            found.push(format!("{path}: {lines} lines"));
        }
        if lines <= LONGEST_FILE && excused {
            found.push(format!("{path}: short enough, needs no excuse any more"));
        }
    }
    none(&format!("files above {LONGEST_FILE} lines without a reason in LONG_FILES"), &found);
}

/// Every folder of sources has a first file that says what it is about.
#[test]
fn every_room_has_a_door_sign() {
    let found: Vec<String> = files("src", "rs")
        .into_iter()
        .chain(files("connectors", "rs"))
        .filter(|(path, _)| {
            path.ends_with("/mod.rs") || path.ends_with("/lib.rs") || path.ends_with("/main.rs")
        })
        .filter(|(_, text)| !text.starts_with("//!"))
        .map(|(path, _)| path)
        .collect();
    none("rooms without a door sign", &found);
}

#[test]
fn nothing_is_left_undone() {
    let mut found = Vec::new();
    for (path, text) in sources().into_iter().filter(|(path, _)| path != "tests/tidy.rs") {
        for (i, line) in text.lines().enumerate() {
            for bad in ["todo!(", "unimplemented!(", "dbg!(", "TODO", "FIXME", "XXX", "HACK"] {
                if line.contains(bad) {
                    found.push(format!("{path}:{}: {bad}", i + 1));
                }
            }
        }
    }
    none("work that is left undone", &found);
}

/// Codes in a text: `CUT` and four digits.
fn codes(text: &str) -> BTreeSet<String> {
    text.match_indices("CUT")
        .filter_map(|(at, _)| text.get(at..at + 7))
        .filter(|code| code[3..].chars().all(|c| c.is_ascii_digit()))
        .map(str::to_owned)
        .collect()
}

/// **Invariant:** every code has a page, and every page has a code.
#[test]
fn every_code_has_a_page_and_every_page_a_code() {
    let mut used: BTreeMap<String, String> = BTreeMap::new();
    for (path, text) in files("src", "rs").into_iter().chain(files("connectors", "rs")) {
        for code in codes(&text) {
            used.entry(code).or_insert_with(|| path.clone());
        }
    }
    let pages: BTreeSet<String> = files("docs/errors", "md")
        .iter()
        .filter_map(|(path, _)| path.strip_prefix("docs/errors/")?.strip_suffix(".md"))
        .map(str::to_owned)
        .collect();
    let mut found: Vec<String> = used
        .iter()
        .filter(|(code, _)| !pages.contains(*code) && !TEST_CODES.contains(&code.as_str()))
        .map(|(code, path)| format!("{code} has no page ({path})"))
        .collect();
    found.extend(pages.iter().filter(|p| !used.contains_key(*p)).map(|p| format!("{p} is unused")));
    none("codes and pages that do not belong together", &found);
}

/// A page says what happened, why, and what to do, under the code's own title.
#[test]
fn every_page_answers_three_questions() {
    let mut found = Vec::new();
    for (path, text) in files("docs/errors", "md") {
        let code = path.trim_start_matches("docs/errors/").trim_end_matches(".md");
        if !text.starts_with(&format!("# {code}: ")) {
            found.push(format!("{path}: the title is not `# {code}: ...`"));
        }
        // Findings say `What.` and `Why.`, failures `What happened.` and `Why it happens.`.
        for part in ["What", "Why", "What to do"] {
            let said = text.lines().any(|line| {
                let line = line.trim_start_matches("## ").trim_start_matches("**");
                let rest = line.strip_prefix(part);
                rest.is_some_and(|rest| {
                    rest.is_empty()
                        || rest.starts_with('.')
                        || rest.starts_with(" happen")
                        || rest.starts_with(" it")
                })
            });
            if !said {
                found.push(format!("{path}: no `{part}`"));
            }
        }
        for other in codes(&text) {
            if !root().join(format!("docs/errors/{other}.md")).exists() {
                found.push(format!("{path}: names {other}, which has no page"));
            }
        }
    }
    none("pages of error codes", &found);
}

/// Documents: everything a reader gets.
fn documents() -> Vec<(String, String)> {
    let mut all = files("docs", "md");
    let readme = root().join("README.md");
    if let Ok(text) = fs::read_to_string(readme) {
        all.push(("README.md".into(), text));
    }
    all
}

#[test]
fn documents_name_no_machine() {
    let mut found = Vec::new();
    for (path, text) in documents() {
        for bad in ["/work/", "/root/", "/home/", "/Users/", "/tmp/tmp"] {
            for (i, line) in text.lines().enumerate().filter(|(_, l)| l.contains(bad)) {
                found.push(format!("{path}:{}: {}", i + 1, line.trim()));
            }
        }
    }
    none("paths of one machine in documents", &found);
}

/// Links between documents lead somewhere.
#[test]
fn links_between_documents_lead_somewhere() {
    let mut found = Vec::new();
    for (path, text) in documents() {
        let folder = Path::new(&path).parent().unwrap_or(Path::new(""));
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split([')', '#', ' ']).next().unwrap_or_default();
            let outside = target.contains("://") || target.starts_with("mailto:");
            if !target.is_empty() && !outside && !root().join(folder).join(target).exists() {
                found.push(format!("{path}: {target}"));
            }
        }
    }
    none("links that lead nowhere", &found);
}

/// Pages that the program writes from its own definitions.
#[test]
fn generated_pages_are_fresh() {
    let mut found = Vec::new();
    for (path, page) in [
        ("docs/CONFIG.md", cutover::config::reference::page()),
        ("docs/METRICS.md", cutover::observe::metrics::page()),
    ] {
        if std::env::var_os("UPDATE_DOCS").is_some() {
            fs::write(root().join(path), &page).unwrap();
        }
        if fs::read_to_string(root().join(path)).unwrap_or_default() != page {
            found.push(path.to_owned());
        }
    }
    none("stale pages: UPDATE_DOCS=1 cargo test --test tidy", &found);
}

/// Dashboards ask for metrics that exist.
#[test]
fn dashboards_show_metrics_that_exist() {
    let known: BTreeSet<String> =
        cutover::observe::metrics::ALL.iter().map(|m| format!("cutover_{}", m.name)).collect();
    let mut found = Vec::new();
    let mut seen = 0;
    for (path, text) in files("docs", "json") {
        for line in text.lines().filter(|l| l.contains("\"expr\"")) {
            for (at, _) in line.match_indices("cutover_") {
                seen += 1;
                let name = word(&line[at..]);
                let base = ["_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|end| name.strip_suffix(end))
                    .unwrap_or(&name);
                if !known.contains(base) && !known.contains(&name) {
                    found.push(format!("{path}: {name}"));
                }
            }
        }
    }
    assert!(seen > 0, "no dashboard was found");
    none("metrics that nobody serves", &found);
}

/// Examples in documents are configurations that the program accepts.
#[test]
fn configurations_in_documents_are_accepted() {
    let environment = |_: &str| Some("x".to_owned());
    let mut tried = 0;
    for (path, text) in documents() {
        for block in text.split("```yaml\n").skip(1) {
            let yaml = block.split("```").next().unwrap_or_default();
            // A part of a file is completed to a whole one.
            let mut whole = yaml.to_owned();
            if !yaml.lines().any(|l| l.starts_with("run:")) {
                if !is_configuration(yaml) {
                    continue;
                }
                whole.push_str("\nrun: shop\n");
            }
            for side in ["blue", "green"] {
                if !whole.lines().any(|l| l.starts_with(&format!("{side}:"))) {
                    whole.push_str(&format!("{side}: {{ url: \"postgres://u@{side}/d\" }}\n"));
                }
            }
            tried += 1;
            if let Err(e) = cutover::config::parse(Path::new("cutover.yaml"), &whole, &environment)
            {
                panic!("{path}: {e}\n{yaml}");
            }
        }
    }
    assert!(tried >= 2, "only {tried} configurations found in the documents");
}

/// Whether a block of YAML is a part of a configuration: it begins with one of its sections.
fn is_configuration(yaml: &str) -> bool {
    let first = yaml.lines().find(|l| !l.trim_start().starts_with('#') && !l.trim().is_empty());
    let key = first.and_then(|l| l.split_once(':')).map(|(key, _)| key);
    key.is_some_and(|key| cutover::config::raw::Root::SECTION.key(key).is_some())
}

/// **Invariant:** credentials never print: their type has no `Serialize` and no derived `Debug`.
#[test]
fn secrets_cannot_be_printed() {
    let mut found = Vec::new();
    for (path, text) in files("src/config", "rs").into_iter().chain(files("connectors", "rs")) {
        for kind in ["struct Secret(", "struct Address(", "struct Password("] {
            let Some(at) = text.find(kind) else { continue };
            let attributes: Vec<&str> = text[..at]
                .lines()
                .rev()
                .skip(1)
                .take_while(|l| l.starts_with("#[") || l.starts_with("///"))
                .collect();
            for line in attributes.iter().filter(|l| l.starts_with("#[derive")) {
                for bad in ["Debug", "Serialize", "Display"] {
                    if line.contains(bad) {
                        found.push(format!("{path}: {kind}..) derives {bad}"));
                    }
                }
            }
            if text.contains("impl fmt::Display for Secret") {
                found.push(format!("{path}: a secret has a Display form"));
            }
        }
    }
    none("secrets that print", &found);
}

/// **Invariant:** what goes into a journal holds no part of the configuration.
#[test]
fn facts_hold_no_configuration() {
    let mut found = Vec::new();
    for (path, text) in files("src", "rs") {
        if !(path.ends_with("/fact.rs") || path.starts_with("src/journal/")) {
            continue;
        }
        for bad in ["config::", "Secret", "Address", "password", "Tuple", "RowKey"] {
            if code(&text).contains(bad) {
                found.push(format!("{path}: {bad}"));
            }
        }
    }
    none("facts that could hold a credential or a row", &found);
}

/// **Invariant:** only the printer prints.
#[test]
fn only_the_printer_prints() {
    let allowed = ["src/cli/output.rs", "src/cli/exit.rs"];
    let mut found = Vec::new();
    for (path, text) in files("src", "rs").into_iter().chain(files("connectors", "rs")) {
        let tests =
            path.contains("/tests/") || path.contains("/examples/") || path.ends_with("tests.rs");
        if allowed.contains(&path.as_str()) || tests {
            continue;
        }
        let text = code(&text);
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        for bad in ["println!(", "eprintln!(", "print!(", "eprint!(", "io::stdout()"] {
            if text.lines().any(|l| l.trim_start().starts_with(bad)) {
                found.push(format!("{path}: {bad}"));
            }
        }
    }
    none("printing beside the printer", &found);
}

/// Pieces of a move are named once: the steps of the runbook are those of the plan.
#[test]
fn the_architecture_page_names_every_room() {
    let text = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    let found: Vec<String> = ROOMS
        .iter()
        .map(|(room, _)| *room)
        .filter(|room| !text.contains(&format!("  {room}")))
        .map(str::to_owned)
        .collect();
    none("rooms that docs/ARCHITECTURE.md does not name", &found);
}
