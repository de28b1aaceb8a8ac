//! Which `pg_dump` and `pg_restore` to take.

use std::path::{Path, PathBuf};

use cutover_core::port::{PortError, Result};

/// A pair of programs of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Programs {
    major: u32,
    pub(super) dump: PathBuf,
    pub(super) restore: PathBuf,
}

impl Programs {
    /// The pair for a dump of version `blue` that is restored on version `green`.
    pub(super) fn find(blue: u32, green: u32, doing: &str) -> Result<Self> {
        let found: Vec<Self> = folders().iter().filter_map(|f| at(f)).collect();
        choose(&found, blue, green).cloned().ok_or_else(|| {
            let have: Vec<String> = found.iter().map(|p| p.major.to_string()).collect();
            PortError::definite(
                "CUT0303",
                doing,
                format!(
                    "no pg_dump of version {blue} or newer was found (found: {})",
                    if have.is_empty() { "none".into() } else { have.join(", ") }
                ),
                format!(
                    "install the client programs of PostgreSQL {green} (postgresql-client-{green}),\
                     set CUTOVER_PG_BIN to their folder, or use `schema: provided`"
                ),
            )
        })
    }
}

/// A dump needs a program that is not older than the server; an older green does not know the
/// settings of a newer one. So: the newest up to green, else the oldest beyond.
fn choose(found: &[Programs], blue: u32, green: u32) -> Option<&Programs> {
    let able = || found.iter().filter(|p| p.major >= blue);
    able()
        .filter(|p| p.major <= green)
        .max_by_key(|p| p.major)
        .or_else(|| able().min_by_key(|p| p.major))
}

/// Folders that may hold the programs, the user's own choice first.
fn folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> =
        std::env::var_os("CUTOVER_PG_BIN").map(PathBuf::from).into_iter().collect();
    let mut below = |base: PathBuf, tail: &str| {
        // A folder that is not there holds nothing.
        if let Ok(entries) = std::fs::read_dir(base) {
            folders.extend(entries.flatten().map(|e| e.path().join(tail)));
        }
    };
    below("/usr/lib/postgresql".into(), "bin");
    below("/usr/local/pgsql".into(), "bin");
    if let Some(servers) = std::env::var_os("CUTOVER_SERVERS") {
        below(servers.into(), "bin");
    }
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache")));
    if let Some(cache) = cache {
        below(cache.join("cutover/servers"), "bin");
    }
    below("/var/cache/cutover/servers".into(), "bin");
    if let Ok(entries) = std::fs::read_dir("/usr") {
        folders.extend(
            entries
                .flatten()
                .filter(|e| e.file_name().to_string_lossy().starts_with("pgsql-"))
                .map(|e| e.path().join("bin")),
        );
    }
    if let Some(path) = std::env::var_os("PATH") {
        folders.extend(std::env::split_paths(&path));
    }
    folders
}

fn at(folder: &Path) -> Option<Programs> {
    let (dump, restore) = (folder.join("pg_dump"), folder.join("pg_restore"));
    if !dump.is_file() || !restore.is_file() {
        return None;
    }
    let said = std::process::Command::new(&dump).arg("--version").output().ok()?;
    let major = major(&String::from_utf8_lossy(&said.stdout))?;
    Some(Programs { major, dump, restore })
}

/// `pg_dump (PostgreSQL) 17.2 (Debian 17.2-1)` is 17.
fn major(said: &str) -> Option<u32> {
    let digits = |w: &str| w.chars().take_while(char::is_ascii_digit).collect::<String>();
    said.split_whitespace().find_map(|w| digits(w).parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn not_older_than_blue_and_rather_not_newer_than_green() {
        let all: Vec<Programs> = [13, 15, 17, 18]
            .map(|major| Programs { major, dump: "d".into(), restore: "r".into() })
            .into();
        let chosen = |blue, green| choose(&all, blue, green).map(|p| p.major);
        assert_eq!(chosen(14, 17), Some(17));
        assert_eq!(chosen(14, 16), Some(15));
        assert_eq!(chosen(16, 16), Some(17), "newer than green, since nothing else can read blue");
        assert_eq!(chosen(19, 19), None);
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(major("pg_dump (PostgreSQL) 17.2 (Debian 17.2-1)"), Some(17));
        assert_eq!(major("pg_dump (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(major("nothing"), None);
    }
}
