//! Collects what the checks of a PgBouncer judge. Changes nothing that lasts.

use std::{collections::HashMap, fs, io, path::PathBuf, time::Duration};

use cutover_core::{model::side::Side, port::switch::Routing};

use super::{
    console::{OrderError, Session, words},
    drive::Inner,
    file::{self, Draft},
    ini,
    state::{State, by},
};

/// Longest wait for a console that answers at once when it is alive.
const ANSWER: Duration = Duration::from_secs(2);

/// A RESUME of something that is not there tells an administrator from others and does nothing.
const PROBE: &str = "RESUME \"cutover: may this user give orders?\"";

/// What is known about one PgBouncer and its file.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) place: String,
    pub(super) user: String,
    pub(super) blue: String,
    pub(super) path: PathBuf,
    pub(super) pause_budget: Duration,
    /// Why the console could not be asked, or what it said.
    pub(super) console: Result<Said, String>,
    /// Why the file cannot be used, or what is in it.
    pub(super) file: Result<Written, Trouble>,
}

/// What the console said.
#[derive(Debug, Clone)]
pub(super) struct Said {
    pub(super) version: String,
    pub(super) admin: bool,
    pub(super) state: Result<State, String>,
    pub(super) routing: Routing,
    /// `SHOW CONFIG`.
    pub(super) settings: HashMap<String, String>,
    /// The configuration file it says it reads, when that could be found on this machine.
    pub(super) reads: Option<PathBuf>,
}

/// What the file says.
#[derive(Debug, Clone)]
pub(super) struct Written {
    /// For each of our databases: host, port and dbname.
    pub(super) entries: Vec<(String, Option<String>, u16, String)>,
    /// Links resolved.
    pub(super) path: PathBuf,
}

/// Why the file cannot be used.
#[derive(Debug, Clone)]
pub(super) enum Trouble {
    /// It cannot be read, or not be replaced with its owner and mode.
    Access(String),
    /// The entry cannot be found or changed.
    Entry(String),
}

pub(super) async fn gather(inner: &Inner) -> Facts {
    let console = match inner.console.open(ANSWER).await {
        Err(cause) => Err(words(&*cause)),
        Ok(session) => ask(inner, &session).await.map_err(|error| words(&error)),
    };
    Facts {
        place: inner.console.place().to_owned(),
        user: inner.console.user().to_owned(),
        blue: inner.targets.blue.to_string(),
        path: inner.path.clone(),
        pause_budget: inner.pause_budget,
        console,
        file: read(inner),
    }
}

async fn ask(inner: &Inner, session: &Session) -> Result<Said, OrderError> {
    let admin = match session.order(PROBE, ANSWER).await {
        Ok(_) => true,
        Err(OrderError::Refused { words, .. }) => !words.contains("admin access"),
        Err(error) => return Err(error),
    };
    let state = match inner.ask(session).await {
        Ok(state) => Ok(state),
        Err(error @ OrderError::Refused { .. }) => Err(words(&error)),
        Err(error) => return Err(error),
    };
    let routing = match &state {
        Ok(state) => state.routing(&inner.targets),
        Err(_) => Routing { side: None, paused: None },
    };
    let settings: HashMap<String, String> = match session.order("SHOW CONFIG", ANSWER).await {
        Ok(rows) => {
            rows.iter().filter_map(|row| Some((by(row)("key")?, by(row)("value")?))).collect()
        }
        Err(OrderError::Refused { .. }) => HashMap::new(),
        Err(error) => return Err(error),
    };
    let reads = settings.get("conffile").and_then(|path| {
        // A relative path is relative to a folder we do not know.
        path.starts_with('/').then(|| fs::canonicalize(path).ok()).flatten()
    });
    Ok(Said { version: session.version().to_owned(), admin, state, routing, settings, reads })
}

fn read(inner: &Inner) -> Result<Written, Trouble> {
    let access = |what: &str, error: io::Error| Trouble::Access(format!("{what}: {error}"));
    let text = inner.read().map_err(|error| access("it cannot be read", error))?;
    let path =
        fs::canonicalize(&inner.path).map_err(|error| access("it cannot be found", error))?;
    let entry = |error: ini::IniError| Trouble::Entry(error.to_string());
    let found = ini::databases(&text).map_err(entry)?;
    let mut entries = Vec::new();
    for name in &inner.databases {
        let one = found.only(name).map_err(entry)?;
        entries.push((name.clone(), one.host.clone(), one.port, one.dbname.clone()));
    }
    for side in [Side::Blue, Side::Green] {
        ini::pointed_at(&text, &inner.databases, inner.targets.of(side)).map_err(entry)?;
    }
    // The very thing that re-pointing does, up to the rename.
    Draft::write(&inner.path, text).map_err(|error| access("it cannot be replaced", error))?;
    file::sync_folder(&inner.path).map_err(|error| access("its folder cannot be synced", error))?;
    Ok(Written { entries, path })
}
