//! Logs: text for people, JSON for machines. Where they go is the caller's business.

use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Text {
        /// With colour.
        color: bool,
    },
    /// One JSON object per line.
    Json,
}

/// Starts logging into `writer`. A filter that cannot be read is replaced by `info` and complained
/// about; a second call changes nothing.
pub fn start<W>(filter: &str, form: Form, writer: W)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (parsed, bad) = match EnvFilter::try_new(filter) {
        Ok(parsed) => (parsed, None),
        Err(e) => (EnvFilter::new("info"), Some(e)),
    };
    // A log that cannot be written is no reason to panic, which complaining about it would be.
    let base = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(writer)
        .log_internal_errors(false);
    let started = match form {
        Form::Json => base.json().try_init(),
        Form::Text { color } => base.with_target(false).with_ansi(color).try_init(),
    };
    // Only a second start fails, and the first one goes on.
    if started.is_ok()
        && let Some(e) = bad
    {
        tracing::warn!("the log filter {filter:?} is not understood, using info: {e}");
    }
}
