//! The process that started the guard, and what no signal may do to the guard.

use std::{io, os::unix::process::parent_id, process::Command};

use tokio::signal::unix::{SignalKind, signal};

/// The process that started us, as long as it is that one.
#[derive(Debug, Clone, Copy)]
pub struct Parent(u32);

impl Parent {
    /// The process whose child we are now. Ask at the beginning.
    #[must_use]
    pub fn here() -> Self {
        Self(parent_id())
    }

    /// Kills it, unless it is gone: then we are somebody else's child, and its number may be
    /// somebody else's too.
    pub fn kill(self) {
        if parent_id() != self.0 || self.0 <= 1 {
            return;
        }
        // The shell's own `kill`: the program of that name is missing on small systems.
        let killed = Command::new("/bin/sh").arg("-c").arg(format!("kill -9 {}", self.0)).status();
        match killed {
            Ok(status) if status.success() => {}
            Ok(status) => tracing::error!(process = self.0, %status, "killing the run"),
            Err(e) => tracing::error!(process = self.0, error = %e, "killing the run"),
        }
    }
}

/// From here on the signals that end the run (Ctrl-C, a service manager's stop, a closed terminal)
/// do not end this process: it ends when its pipe says so. Call it in the guard's process only.
///
/// # Errors
///
/// The system refuses.
pub fn stand_fast() -> io::Result<()> {
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        // A signal that was listened to once no longer has its default effect.
        drop(signal(kind)?);
    }
    Ok(())
}
