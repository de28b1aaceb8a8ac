//! The only place that names connector crates: checked configuration in, machinery of one run out.

mod database;
mod switch;

use std::{path::Path, sync::Arc};

use cutover::{
    config::{self, Config},
    error::Failure,
    journal::JournalError,
    observe::progress::Progress,
    run::{
        book::Book,
        live::Wishes,
        ports::Ports,
        prepare::{Definitions, Preparation},
        serve::{Start, Until},
        status::Board,
    },
};
use cutover_core::model::side::Side;

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
            effective: config.effective(),
        },
        preparation: Preparation {
            run: config.run.clone(),
            selection: config.tables.clone(),
            ports,
            book,
            definitions,
            workers: config.copy.workers,
            chunk: config.copy.chunk,
            rate: config.copy.rate,
            progress,
        },
        state_dir: config.state_dir.clone(),
        config_file: config.file.clone(),
        until,
        window: config.rollback.window,
        board,
    })
}

fn make_folder(folder: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|source| {
        JournalError::Io { doing: "making the folder of", path: folder.to_owned(), source }.into()
    })
}
