//! How a journal fails.

use std::path::PathBuf;

use crate::error::{Exit, Explain};

/// Why a journal cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process writes it.
    #[error("another process writes the journal {path}")]
    Locked {
        /// Which journal.
        path: PathBuf,
    },
    /// It says something else than what was written.
    #[error("the journal {path} is damaged in line {line} (byte {offset}): {what}; {known}")]
    Damaged {
        /// Which journal.
        path: PathBuf,
        /// Line, counted from 1, the header included.
        line: usize,
        /// Offset of that line in bytes.
        offset: usize,
        /// What is wrong with it.
        what: String,
        /// What is known from the lines before.
        known: String,
    },
    /// It was written by a version that this one does not know.
    #[error("the journal {path} has format {found}; this program knows {known}")]
    Version {
        /// Which journal.
        path: PathBuf,
        /// What its header says.
        found: String,
        /// What we write.
        known: String,
    },
    /// Not a journal, or one of another kind.
    #[error("{path} is not a journal of {wanted}: it begins with {found:?}")]
    Foreign {
        /// Which file.
        path: PathBuf,
        /// The kind that was asked for.
        wanted: String,
        /// Its first bytes.
        found: String,
    },
    /// The file system failed.
    #[error("{doing} the journal {path} failed")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Which journal.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// An earlier append failed, so that nobody knows what is on the disk.
    #[error("the journal {path} failed before and takes nothing more")]
    Poisoned {
        /// Which journal.
        path: PathBuf,
    },
}

impl JournalError {
    /// Whether another process has it open for writing.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        matches!(self, Self::Locked { .. })
    }

    /// Whether the file system failed in a way that may be put right while we wait.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.kind() != std::io::ErrorKind::NotFound,
            Self::Poisoned { .. } => true,
            _ => false,
        }
    }
}

impl Explain for JournalError {
    fn code(&self) -> Option<&str> {
        Some(match self {
            Self::Locked { .. } => "CUT0510",
            Self::Damaged { .. } => "CUT0511",
            Self::Version { .. } => "CUT0512",
            Self::Foreign { .. } => "CUT0513",
            Self::Io { .. } | Self::Poisoned { .. } => "CUT0514",
        })
    }

    fn remedy(&self) -> Option<String> {
        Some(match self {
            Self::Locked { path } => format!(
                "find the process with `fuser {}`; a guard that is freeing traffic lets go within \
                 seconds, so try again; else stop the other `cutover run` first",
                path.display()
            ),
            Self::Damaged { path, .. } => format!(
                "keep a copy of {0}; ask the switches and both databases who owns the writes; \
                 then move {0} away, start `cutover run` and tell it the owner with `cutover \
                 resolve --owner blue|green`",
                path.display()
            ),
            Self::Version { .. } => "use the version of cutover that began this run".into(),
            Self::Foreign { path, .. } => {
                format!("choose another state_dir, or move {} away", path.display())
            }
            Self::Io { path, .. } | Self::Poisoned { path } => format!(
                "check space and health of the disk under {}, then start `cutover run` again",
                path.display()
            ),
        })
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Damaged { .. } => Exit::Undecided,
            _ => Exit::Failed,
        }
    }
}
