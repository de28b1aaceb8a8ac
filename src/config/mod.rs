//! What the user wants: `cutover.yaml`, read and checked.
//!
//! [`raw`] is the file as written, [`checked`] the same after every rule, so that nobody behind it
//! handles a missing or impossible value. Every key is defined once, in `raw`; the reference page
//! and the defaults come from there. This room reads the file and the environment and nothing else.

pub mod checked;
pub mod keys;
pub mod problem;
pub mod raw;
mod reader;
pub mod reference;
mod rules;
pub mod secret;
pub mod units;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use checked::Config;
pub use problem::{ConfigError, Problem};
pub use secret::{Address, Secret};

/// Looks up an environment variable.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The environment of this process.
#[must_use]
pub fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Where a run lives: what commands need that only talk to the running process.
///
/// Reading it needs no password and no environment variable of the databases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// The configuration file.
    pub file: PathBuf,
    /// Name of the run.
    pub run: cutover_core::model::run::RunId,
    /// Folder of its journal and its control socket.
    pub state_dir: PathBuf,
}

/// Reads and checks a configuration file.
///
/// # Errors
///
/// All mistakes of the file at once, each with its place and remedy.
pub fn load(file: &Path, environment: Environment<'_>) -> Result<Config, ConfigError> {
    parse(file, &read(file)?, environment)
}

/// Checks the text of a configuration file that would be at `file`.
///
/// # Errors
///
/// As [`load`].
pub fn parse(file: &Path, text: &str, environment: Environment<'_>) -> Result<Config, ConfigError> {
    let raw = raw::parse(file, text)?;
    rules::check(file, text, &raw, environment)
}

/// Reads only where the run lives.
///
/// # Errors
///
/// The file is unreadable, has unknown keys, or the two keys in question are wrong.
pub fn home(file: &Path, environment: Environment<'_>) -> Result<Home, ConfigError> {
    let text = read(file)?;
    let raw = raw::parse(file, &text)?;
    rules::home(file, &text, &raw, environment)
}

fn read(file: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(file).map_err(|source| ConfigError::Unreadable {
        file: file.to_path_buf(),
        source: source.into(),
    })
}
