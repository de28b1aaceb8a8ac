//! Logs on standard error: text for people, JSON for machines.

use tracing_subscriber::{EnvFilter, fmt};

/// Starts logging. A filter that cannot be read is replaced by `info` and complained about; a
/// second call changes nothing.
pub fn start(filter: &str, json: bool) {
    let (parsed, bad) = match EnvFilter::try_new(filter) {
        Ok(parsed) => (parsed, None),
        Err(e) => (EnvFilter::new("info"), Some(e)),
    };
    let base = fmt().with_env_filter(parsed).with_writer(std::io::stderr);
    let started = if json {
        base.json().try_init()
    } else {
        base.with_target(false).with_ansi(std::env::var_os("NO_COLOR").is_none()).try_init()
    };
    // Only a second start fails, and the first one goes on.
    if started.is_ok()
        && let Some(e) = bad
    {
        tracing::warn!("the log filter {filter:?} is not understood, using info: {e}");
    }
}
