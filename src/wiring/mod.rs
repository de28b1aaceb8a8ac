//! The only place that names connector crates: checked configuration in, machinery of one run out.

mod database;
mod switch;

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use cutover::{
    config::{self, Config},
    error::Failure,
    journal::JournalError,
    observe::progress::Progress,
    preflight,
    run::{
        book::Book,
        goal::Until,
        live::Wishes,
        ports::Ports,
        prepare::{self, Definitions, Preparation},
        serve::Start,
        standing::Standing,
        status::Board,
    },
    stream::Policy,
    web::{self, Web},
};
use cutover_core::{
    model::{run::RunId, selection::Selection, side::Side},
    port::source::Source as _,
};

/// Puts the ports of a run together; connects to nothing.
///
/// # Errors
///
/// An address or a switch that cannot work.
pub(crate) fn ports(config: &Config) -> Result<Ports, Failure> {
    let spill = config.state_dir.join("spill");
    let blue = database::open(config, Side::Blue, &spill)?;
    let green = database::open(config, Side::Green, &spill)?;
    let switches = config
        .switches
        .iter()
        .map(|s| switch::open(config, s, &blue, &green))
        .collect::<Result<_, _>>()?;
    Ok(Ports {
        schema: database::schema(&blue, &green),
        blue: database::ports(&blue),
        green: database::ports(&green),
        switches,
    })
}

/// Takes the journal and puts a run together that can be served.
///
/// # Errors
///
/// As [`ports`], or the journal cannot be opened.
pub(crate) fn start(config: &Config, until: Until) -> Result<Start, Failure> {
    let ports = ports(config)?;
    make_folder(&config.state_dir)?;
    let book = Arc::new(Book::open(&config.state_dir).map_err(Failure::from)?);
    let progress = Arc::new(Progress::default());
    let board = Arc::new(Board::new(&config.run, Arc::clone(&book), Arc::clone(&progress)));
    let definitions = match &config.schema {
        config::checked::Schema::Provided => Definitions::Provided,
        schema => Definitions::Copy {
            commands: match schema {
                config::checked::Schema::Run(commands) => commands.clone(),
                _ => Vec::new(),
            },
            folder: config.file.parent().unwrap_or(Path::new(".")).to_path_buf(),
            environment: database::child_environment(config, Side::Green)?,
        },
    };
    Ok(Start {
        wishes: Wishes {
            continuous: config.verify.continuous,
            workers: config.copy.workers,
            pause_budget: config.moves.pause_budget,
            max_lag: config.moves.max_lag,
            copies_schema: matches!(definitions, Definitions::Copy { .. }),
            effective: config.public(),
        },
        preparation: Preparation {
            run: config.run.clone(),
            selection: config.tables.clone(),
            ports,
            book,
            definitions,
            policy: match config.ddl {
                config::checked::Ddl::Stop => Policy::Stop,
                config::checked::Ddl::Apply => Policy::Apply,
                config::checked::Ddl::Ignore => Policy::Ignore,
            },
            workers: config.copy.workers,
            chunk: config.copy.chunk,
            rate: config.copy.rate,
            progress,
            emptied: Mutex::default(),
        },
        state_dir: config.state_dir.clone(),
        config_file: config.file.clone(),
        until,
        window: config.rollback.window,
        board,
    })
}

/// What preflight looks at before a run, or beside one.
///
/// # Errors
///
/// As [`ports`], or the journal cannot be read.
pub(crate) fn inputs(config: &Config) -> Result<preflight::Inputs, Failure> {
    let standing = Book::peek(&config.state_dir)?.unwrap_or_else(|| Standing::of(&[]));
    let copies = !matches!(config.schema, config::checked::Schema::Provided);
    Ok(prepare::inputs(
        &config.run,
        &config.tables,
        &ports(config)?,
        &standing,
        standing.start.is_some(),
        copies,
        config.copy.workers,
    ))
}

/// Serves status and metrics when the configuration says so.
///
/// # Errors
///
/// The address cannot be bound.
pub(crate) async fn web(config: &Config, board: Arc<Board>) -> Result<Option<Web>, Failure> {
    match &config.http {
        Some(http) => Ok(Some(web::serve(http.listen, board).await?)),
        None => Ok(None),
    }
}

/// What `init` finds on both servers.
pub(crate) struct Found {
    /// Schemas of blue with tables.
    pub(crate) schemas: Vec<String>,
    /// Tables of blue.
    pub(crate) tables: usize,
    /// Versions of blue and green.
    pub(crate) versions: [String; 2],
    /// Version numbers of blue and green.
    pub(crate) numbers: [u32; 2],
    /// Name of blue's database.
    pub(crate) database: String,
}

impl Found {
    /// A name for the run: database and new version.
    pub(crate) fn suggested_run(&self) -> String {
        let name: String = self
            .database
            .to_ascii_lowercase()
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .skip_while(|c| !c.is_ascii_alphabetic())
            .take(30)
            .collect();
        let name = if name.is_empty() { "move" } else { &name };
        format!("{}-pg{}", name.trim_end_matches('-'), self.numbers[1] / 10_000)
    }
}

/// Looks at both servers.
///
/// # Errors
///
/// One of them cannot be reached.
pub(crate) async fn look(blue: &str, green: &str) -> Result<Found, Failure> {
    let run = RunId::new("init").map_err(|e| Failure::new(e.to_string()))?;
    let folder = std::env::temp_dir();
    let blue = database::at(blue, "BLUE_PASSWORD", Side::Blue, &run, &folder)?;
    let green = database::at(green, "GREEN_PASSWORD", Side::Green, &run, &folder)?;
    let all = Selection::default();
    let tables = blue.tables(&all).await?;
    let (there, here) = (green.inventory(&all).await?, blue.inventory(&all).await?);
    let mut schemas: Vec<String> = tables.iter().map(|t| t.name.schema.clone()).collect();
    schemas.sort();
    schemas.dedup();
    Ok(Found {
        schemas,
        tables: tables.len(),
        versions: [here.version_text, there.version_text],
        numbers: [here.version, there.version],
        database: blue.dbname().to_owned(),
    })
}

fn make_folder(folder: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|source| {
        JournalError::Io { doing: "making the folder of", path: folder.to_owned(), source }.into()
    })
}
