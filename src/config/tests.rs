use std::{path::Path, time::Duration};

use super::{
    checked::{Schema, SwitchKind},
    keys::Given,
    raw::SECTIONS,
    *,
};

fn environment(name: &str) -> Option<String> {
    match name {
        "BLUE_PASSWORD" | "GREEN_PASSWORD" | "PGBOUNCER_PASSWORD" => Some("hunter2".into()),
        "HOST" => Some("db.example".into()),
        _ => None,
    }
}

fn read(text: &str) -> Result<Config, ConfigError> {
    parse(Path::new("/etc/shop/cutover.yaml"), text, &environment)
}

fn problems(text: &str) -> Vec<Problem> {
    match read(text) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(ConfigError::Mistakes(problems)) => problems,
        Err(other) => panic!("{other}"),
    }
}

const SMALL: &str = "\
run: shop
blue: { url: \"postgres://u@a/d\" }
green: { url: \"postgres://u@b/d\" }
";

#[test]
fn the_example_is_read() {
    let config = read(reference::EXAMPLE).unwrap();
    assert_eq!(config.run.as_str(), "shop-pg17");
    assert_eq!(config.state_dir, Path::new("/etc/shop/state"));
    assert_eq!(config.blue.password.as_ref().unwrap().secret.expose(), "hunter2");
    assert_eq!(config.copy.rate, Some(200 << 20));
    assert_eq!(config.moves.pause_budget, Duration::from_secs(1));
    assert_eq!(config.switches[0].name, "pgbouncer[0]");
    assert_eq!(config.http.unwrap().listen.to_string(), "127.0.0.1:8484");
}

#[test]
fn defaults_are_those_of_the_reference_page() {
    let config = read(SMALL).unwrap();
    assert_eq!(config.copy.workers, 4);
    assert_eq!(config.copy.chunk, 64 << 20);
    assert_eq!(config.copy.rate, None);
    assert!(config.verify.continuous);
    assert_eq!(config.schema, Schema::Copy);
    assert_eq!(config.moves.max_lag, Duration::from_secs(5));
    assert_eq!(config.rollback.window, Duration::from_secs(86_400));
    assert_eq!(config.tables, cutover_core::model::selection::Selection::default());
    assert!(config.http.is_none() && config.switches.is_empty());
    // Written as the page says, they give the same.
    let mut written = SMALL.to_owned();
    for section in SECTIONS.iter().filter(|s| !s.path.contains('.') && s.path != "blue") {
        let defaults = section.keys.iter().filter_map(|k| match k.given {
            Given::Default(value) => Some((k.name, value)),
            _ => None,
        });
        let lines: Vec<String> = defaults.map(|(name, value)| format!("{name}: {value}")).collect();
        match section.path {
            "" => written.push_str(&(lines.join("\n") + "\n")),
            path if !lines.is_empty() && path != "http" => {
                written.push_str(&format!("{path}: {{ {} }}\n", lines.join(", ")));
            }
            _ => {}
        }
    }
    assert_eq!(read(&written).unwrap().public(), config.public(), "{written}");
}

#[test]
fn every_section_is_in_the_reference() {
    let defined = include_str!("raw.rs").matches("\nsection! {").count();
    assert_eq!(defined, SECTIONS.len());
}

#[test]
fn an_unknown_key_names_the_nearest_and_shows_no_value() {
    let found = problems(&format!("{SMALL}move:\n  pause_bugdet: hunter2\n"));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].code, "CUT0003");
    assert_eq!(found[0].at, Some((5, 3)));
    assert_eq!(found[0].remedy, "did you mean `pause_budget`?");
    assert_eq!(found[0].excerpt.as_deref(), Some("  |\n5 |   pause_bugdet …\n  |   ^^^^^^^^^^^^"));
}

#[test]
fn a_key_of_another_section_is_told_where_it_belongs() {
    let found = problems(&format!("{SMALL}workers: 3\n"));
    assert!(found[0].remedy.starts_with("it belongs into `copy`"), "{}", found[0].remedy);
}

#[test]
fn all_mistakes_are_told_at_once_with_their_places() {
    let found = problems(
        "run: Shop\nblue: { url: \"mysql://u@a/d\" }\ncopy: { workers: 0, chunk: 16MB }\nmove: \
         { pause_budget: 1 parsec }\n",
    );
    let told: Vec<(Option<(usize, usize)>, &str)> =
        found.iter().map(|p| (p.at, p.what.as_str())).collect();
    assert_eq!(
        told,
        [
            (Some((1, 6)), "run is no name of a run"),
            (Some((2, 14)), "blue.url has the scheme `mysql`, which this version does not speak"),
            (None, "`green` is missing"),
            (Some((3, 18)), "copy.workers is 0"),
            (Some((3, 28)), "copy.chunk is no size"),
            (Some((4, 23)), "move.pause_budget is no duration"),
        ]
    );
    assert!(found.iter().all(|p| p.code == "CUT0004" && !p.remedy.is_empty()));
}

#[test]
fn a_standby_has_the_form_of_an_address_and_is_another_one() {
    let with = |read_from: &str| {
        SMALL.replace("@a/d\" }", &format!("@a/d\", read_from: \"{read_from}\" }}"))
    };
    let config = read(&with("postgres://u:hunter2@s/d")).unwrap();
    assert_eq!(config.blue.read_from.as_ref().unwrap().expose(), "postgres://u:hunter2@s/d");
    assert_eq!(config.public()["blue"]["read_from"], "postgres://u:***@s/d");
    assert!(
        config.green.read_from.is_none() && config.public()["green"].get("read_from").is_none()
    );
    for (given, what) in [
        ("postgres://u@a/d", "blue.read_from is the address in `url`"),
        (
            "mysql://u@s/d",
            "blue.read_from has the scheme `mysql`, which this version does not speak",
        ),
    ] {
        assert_eq!(problems(&with(given))[0].what, what);
    }
}

#[test]
fn variables_are_substituted_or_refused() {
    let config = read(&SMALL.replace("@a/", "@${HOST}/")).unwrap();
    assert_eq!(config.blue.url.expose(), "postgres://u@db.example/d");
    let found = problems(&SMALL.replace("@a/", "@${NOWHERE}/"));
    assert_eq!(found[0].code, "CUT0005");
    assert!(found[0].what.contains("`NOWHERE`"));
    let found = problems(&SMALL.replace("@a/", "@${HOST/"));
    assert_eq!(found[0].code, "CUT0004");
    let command = format!("{SMALL}schema: {{run: [\"echo $${{HOST}} ${{HOST}}\"]}}\n");
    let config = read(&command).unwrap();
    assert_eq!(config.schema, Schema::Run(vec!["echo ${HOST} db.example".into()]));
}

#[test]
fn passwords_come_from_three_places() {
    let with = |password: &str| {
        SMALL.replace("postgres://u@a/d\"", &format!("postgres://u@a/d\", password: {password}"))
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pw");
    std::fs::write(&file, "hunter2\n").unwrap();
    for (password, origin) in [
        ("hunter2".to_owned(), "the configuration file".to_owned()),
        ("{env: BLUE_PASSWORD}".into(), "env BLUE_PASSWORD".into()),
        (format!("{{file: {}}}", file.display()), format!("file {}", file.display())),
    ] {
        let config = read(&with(&password)).unwrap();
        let credential = config.blue.password.clone().unwrap();
        assert_eq!((credential.secret.expose(), credential.origin), ("hunter2", origin));
        assert!(!config.public().to_string().contains("hunter2"));
        assert!(!format!("{config:?}").contains("hunter2"));
    }
    for (password, code) in [
        ("{env: NOWHERE}", "CUT0005"),
        ("{file: /nowhere}", "CUT0006"),
        ("0123", "CUT0004"),
        ("{evn: A}", "CUT0003"),
        ("{env: A, file: B}", "CUT0002"),
        ("[hunter2]", "CUT0004"),
    ] {
        let found = problems(&with(password));
        assert_eq!(found[0].code, code, "{password}: {}", found[0].what);
    }
}

#[test]
fn no_mistake_shows_a_password() {
    for text in [
        "blue: postgres://u:hunter2@h/d\n",
        "run: x\nblue: { url: \"postgres://u:hunter2@h/d\", pasword: x }\n",
        "run: x\nblue:\n  password: {value: hunter2}\n",
        "run: x\nblue:\n  password:\n    value: hunter2\n",
        "run: x\nblue:\n  url: \"postgres://u:hunter2@h/d\n",
        "run: x\nblue:\n  password: [hunter2, x]\n",
        "run: x\nblue:\n  url: \"mysql://u:hunter2@h/d\"\n",
        "run: x\nswitch:\n  - postgres://u:hunter2@h/d\n",
        "run: x\nschema: postgres://u:hunter2@h/d\n",
        "run: x\nblue: {password: hunter2, url: [}\n",
    ] {
        for problem in problems(text) {
            assert!(!format!("{problem:?}").contains("hunter2"), "{text}: {problem:?}");
        }
    }
}

#[test]
fn switches_are_read_and_named() {
    let config = read(&format!(
        "{SMALL}switch:
  - pgbouncer: {{ admin: \"postgres://p:hunter2@h/pgbouncer\", database: [a, b], config: p.ini, \
         blue: {{ host: x, dbname: d }} }}
  - command: {{ argv: [\"/bin/move\", \"--token=hunter2\"], timeout: 2s, env: [TOKEN] }}
  - command: {{ argv: [\"/bin/other\"] }}
  - webhook: {{ url: \"https://h/x?key=hunter2\", secret: {{env: BLUE_PASSWORD}} }}
"
    ))
    .unwrap();
    let names: Vec<&str> = config.switches.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["pgbouncer[0]", "command[0]", "command[1]", "webhook[0]"]);
    let SwitchKind::PgBouncer { databases, config: ini, blue, .. } = &config.switches[0].kind
    else {
        panic!()
    };
    assert_eq!(databases, &["a", "b"]);
    assert_eq!(ini, Path::new("/etc/shop/p.ini"));
    assert_eq!(blue.as_ref().unwrap().port, 5432);
    assert!(!config.public().to_string().contains("hunter2"));
    let found = problems(&format!("{SMALL}switch:\n  - pgbuoncer: {{}}\n"));
    assert_eq!(found[0].code, "CUT0003");
    assert_eq!(found[0].remedy, "did you mean `pgbouncer`?");
}

#[test]
fn where_a_run_lives_needs_no_password() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cutover.yaml");
    std::fs::write(&file, "run: shop\nblue: { url: \"${NOWHERE}\", password: {env: NOWHERE} }\n")
        .unwrap();
    let home = home(&file, &environment).unwrap();
    assert_eq!((home.run.as_str(), home.state_dir), ("shop", dir.path().join("state")));
}

#[test]
fn an_empty_file_misses_its_keys_and_a_missing_file_says_so() {
    assert_eq!(problems("").len(), 3);
    let error = load(Path::new("/nowhere/cutover.yaml"), &environment).unwrap_err();
    let failure = error.failure();
    assert_eq!(failure.code.as_deref(), Some("CUT0001"));
    assert_eq!(failure.exit, crate::error::Exit::Usage);
}

/// What fuzzing starts from, and what it found (`fuzz/`), also cut off in the middle.
#[test]
fn the_corpus_is_accepted_or_refused() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/configuration");
    let environment = |name: &str| (name == "PW").then(|| "secret".to_owned());
    let (mut accepted, mut refused) = (0, 0);
    for entry in std::fs::read_dir(folder).expect("the corpus") {
        let text =
            String::from_utf8_lossy(&std::fs::read(entry.unwrap().path()).unwrap()).into_owned();
        let half = text.chars().take(text.chars().count() / 2).collect::<String>();
        for text in [text, half] {
            match super::parse(std::path::Path::new("cutover.yaml"), &text, &environment) {
                Ok(_) => accepted += 1,
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    refused += 1;
                }
            }
        }
    }
    assert!(accepted > 0 && refused > 10, "{accepted} accepted, {refused} refused");
}
