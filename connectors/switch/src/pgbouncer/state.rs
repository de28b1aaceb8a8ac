//! What PgBouncer says about our databases, and what follows from it. Pure.

use cutover_core::{model::side::Side, port::switch::Routing};
use tokio_postgres::SimpleQueryRow;

use super::{
    ini::Databases,
    target::{Target, Targets},
};

/// A row of `SHOW DATABASES`. Columns are taken by name: their set differs among versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) name: String,
    pub(super) host: Option<String>,
    pub(super) port: u16,
    pub(super) dbname: String,
    pub(super) paused: bool,
    pub(super) disabled: bool,
    /// `None`: the one of the whole PgBouncer.
    pub(super) pool_mode: Option<String>,
}

impl Shown {
    pub(super) fn leads_to(&self, target: &Target) -> bool {
        self.host.as_deref() == Some(&*target.host)
            && self.port == target.port
            && self.dbname == target.dbname
    }

    /// `None` when a column that every version since 1.12 has is not there.
    pub(super) fn read(column: impl Fn(&str) -> Option<String>) -> Option<Self> {
        Some(Self {
            name: column("name")?,
            host: column("host").filter(|host| !host.is_empty()),
            port: column("port")?.parse().ok()?,
            dbname: column("database")?,
            paused: column("paused")? != "0",
            disabled: column("disabled").is_some_and(|text| text != "0"),
            pool_mode: column("pool_mode").filter(|mode| !mode.is_empty()),
        })
    }
}

/// The databases of one switch as PgBouncer has them now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    /// Ours, in the order of the configuration.
    pub(super) ours: Vec<Shown>,
    /// Ours that PgBouncer does not have.
    pub(super) missing: Vec<String>,
    /// Whether somebody paused the whole PgBouncer; `None` when this version cannot say.
    pub(super) whole_paused: Option<bool>,
}

impl State {
    /// From `SHOW DATABASES` and, where there is one, `SHOW STATE`.
    ///
    /// # Errors
    ///
    /// Names what could not be understood.
    pub(super) fn new(
        names: &[String],
        databases: &[SimpleQueryRow],
        state: Option<&[SimpleQueryRow]>,
    ) -> Result<Self, String> {
        let rows: Option<Vec<Shown>> = databases.iter().map(|row| Shown::read(by(row))).collect();
        let rows =
            rows.ok_or("SHOW DATABASES lacks a column; PgBouncer 1.12 or later is needed")?;
        let whole = state.map(|rows| {
            rows.iter().any(|row| {
                let column = by(row);
                column("key").is_some_and(|key| key == "paused" || key == "suspended")
                    && column("value").is_some_and(|value| value == "yes")
            })
        });
        Ok(Self::of(names, &rows, whole))
    }

    fn of(names: &[String], rows: &[Shown], whole_paused: Option<bool>) -> Self {
        let mut state = Self { ours: Vec::new(), missing: Vec::new(), whole_paused };
        for name in names {
            match rows.iter().find(|row| row.name == *name) {
                Some(row) => state.ours.push(row.clone()),
                None => state.missing.push(name.clone()),
            }
        }
        state
    }

    /// Whether every database of ours leads to `target`.
    pub(super) fn all_at(&self, target: &Target) -> bool {
        self.missing.is_empty() && self.ours.iter().all(|row| row.leads_to(target))
    }

    /// Whether PgBouncer has our databases as a file says.
    pub(super) fn is_as(&self, file: &Databases) -> bool {
        self.missing.is_empty()
            && self.ours.iter().all(|row| {
                file.only(&row.name).is_ok_and(|entry| {
                    (&entry.host, entry.port, &entry.dbname) == (&row.host, row.port, &row.dbname)
                })
            })
    }

    pub(super) fn all_paused(&self) -> bool {
        self.missing.is_empty() && self.ours.iter().all(|row| row.paused)
    }

    /// Names of those that hold clients.
    pub(super) fn paused(&self) -> Vec<&str> {
        self.ours.iter().filter(|row| row.paused).map(|row| &*row.name).collect()
    }

    /// One answer for all: a side only when all agree, and so for the pause.
    pub(super) fn routing(&self, targets: &Targets) -> Routing {
        let mut sides =
            self.ours.iter().map(|row| targets.side_at(row.host.as_deref(), row.port, &row.dbname));
        let first: Option<Side> = sides.next().flatten();
        let side = first.filter(|_| self.missing.is_empty() && sides.all(|side| side == first));
        let paused = if self.whole_paused == Some(true) || self.all_paused() {
            Some(true)
        } else if self.paused().is_empty() && self.missing.is_empty() {
            Some(false)
        } else {
            None
        };
        Routing { side, paused }
    }
}

/// Reads a column by name; `None` when it is not there or NULL.
pub(super) fn by(row: &SimpleQueryRow) -> impl Fn(&str) -> Option<String> {
    move |name| row.try_get(name).ok().flatten().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(host: &str) -> Target {
        Target { host: host.into(), port: 5432, dbname: "shop".into() }
    }

    fn row(name: &str, host: &str, paused: bool) -> Shown {
        Shown {
            name: name.into(),
            host: Some(host.into()),
            port: 5432,
            dbname: "shop".into(),
            paused,
            disabled: false,
            pool_mode: None,
        }
    }

    #[test]
    fn one_answer_for_all_databases() {
        let targets = Targets { blue: target("b"), green: target("g") };
        let names = ["x".to_owned(), "y".to_owned()];
        let routing = |rows: &[Shown], whole| State::of(&names, rows, whole).routing(&targets);
        let both = |one: &str, two: &str, p: bool, q: bool| [row("x", one, p), row("y", two, q)];
        for (rows, whole, side, paused) in [
            (both("b", "b", false, false), None, Some(Side::Blue), Some(false)),
            (both("g", "g", true, true), None, Some(Side::Green), Some(true)),
            (both("g", "g", false, false), Some(true), Some(Side::Green), Some(true)),
            (both("g", "b", true, false), Some(false), None, None),
            (both("g", "elsewhere", false, false), None, None, Some(false)),
        ] {
            assert_eq!(routing(&rows, whole), Routing { side, paused }, "{rows:?}");
        }
        assert_eq!(routing(&[row("x", "b", false)], None), Routing { side: None, paused: None });
        assert!(!State::of(&names, &[row("x", "b", true)], None).all_paused());
    }

    #[test]
    fn a_file_agrees_or_not() {
        let names = ["x".to_owned()];
        let state = State::of(&names, &[row("x", "b", false)], None);
        let file = |text: &str| crate::pgbouncer::ini::databases(text.as_bytes()).unwrap();
        assert!(state.is_as(&file("[databases]\nx = host=b dbname=shop\n")));
        assert!(!state.is_as(&file("[databases]\nx = host=b\n")));
        assert!(!state.is_as(&file("[databases]\n")));
    }

    #[test]
    fn rows_of_old_and_new_versions() {
        let old = |name: &str| match name {
            "name" | "database" => Some("shop".to_owned()),
            "port" => Some("5432".to_owned()),
            "paused" => Some("1".to_owned()),
            _ => None,
        };
        let shown = Shown::read(old).unwrap();
        assert_eq!((shown.host.as_deref(), shown.paused, shown.disabled), (None, true, false));
        assert_eq!(Shown::read(|name| (name != "paused").then(|| "1".to_owned())), None);
    }
}
