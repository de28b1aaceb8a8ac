//! Which servers and client programs are on this machine.
//!
//! Looks in `$CUTOVER_SERVERS`, in the folders filled by `scripts/setup`, where Debian and Ubuntu
//! put PostgreSQL, and on `PATH`, in that order. Installs nothing.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{SandboxError, owner};

/// A PostgreSQL server that can be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PgInstall {
    /// 17 of 17.2.
    pub major: u32,
    /// As the server says it: `17.2`.
    pub version: String,
    /// Absolute, links resolved; holds at least `postgres` and `initdb`.
    pub bindir: PathBuf,
}

impl PgInstall {
    /// The program of this installation; some have no `psql` or `pg_dump`.
    #[must_use]
    pub fn program(&self, name: &str) -> Option<PathBuf> {
        let path = self.bindir.join(name);
        path.is_file().then_some(path)
    }

    fn at(bindir: &Path) -> Option<Self> {
        let bindir = bindir.canonicalize().ok()?;
        if !bindir.join("initdb").is_file() {
            return None;
        }
        let (major, version) = version_of(&bindir.join("postgres"))?;
        Some(Self { major, version, bindir })
    }
}

/// A client program with its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Absolute path.
    pub path: PathBuf,
    /// 17 of 17.2.
    pub major: u32,
}

/// Folders that `scripts/setup` may have filled, each with `pg14`, `pg15`, ... inside.
#[must_use]
pub fn servers_folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = Vec::new();
    folders.extend(env::var_os("CUTOVER_SERVERS").map(PathBuf::from));
    folders.extend(owner::user_cache_folder().map(|cache| cache.join("servers")));
    folders.push(PathBuf::from("/var/cache/cutover/servers"));
    folders
}

/// The PostgreSQL servers of this machine, one per major version, oldest first.
///
/// Of two with the same major version the one with `psql` and `pg_dump` is taken, else the first.
#[must_use]
pub fn find_postgres() -> Vec<PgInstall> {
    let mut found: BTreeMap<u32, PgInstall> = BTreeMap::new();
    for bindir in bindirs() {
        if !bindir.join("postgres").is_file() {
            continue;
        }
        let Some(install) = PgInstall::at(&bindir) else { continue };
        match found.get(&install.major) {
            Some(known) if is_full(known) || !is_full(&install) => {}
            _ => {
                found.insert(install.major, install);
            }
        }
    }
    found.into_values().collect()
}

/// The PostgreSQL server with this major version.
///
/// # Errors
///
/// [`SandboxError::Missing`], with the way to get it.
pub fn postgres(major: u32) -> Result<PgInstall, SandboxError> {
    find_postgres().into_iter().find(|install| install.major == major).ok_or_else(|| {
        SandboxError::Missing {
            what: format!("PostgreSQL {major}"),
            remedy: "run scripts/setup test".to_owned(),
        }
    })
}

/// A PostgreSQL client program such as `pg_dump`, `psql` or `pgbench`.
///
/// With `at_least`, the oldest one that is at least that major version; without, the newest.
#[must_use]
pub fn find_program(name: &str, at_least: Option<u32>) -> Option<Program> {
    let mut found: Vec<Program> = Vec::new();
    for bindir in bindirs() {
        let path = bindir.join(name);
        if !path.is_file() {
            continue;
        }
        // On Debian /usr/bin/pg_dump is a wrapper that picks a version by the server it talks to.
        let Ok(path) = path.canonicalize() else { continue };
        if !path.ends_with(name) {
            continue;
        }
        if let Some((major, _)) = version_of(&path) {
            found.push(Program { path, major });
        }
    }
    choose(found, at_least)
}

/// The PgBouncer program.
#[must_use]
pub fn find_pgbouncer() -> Option<PathBuf> {
    path_folders().into_iter().map(|folder| folder.join("pgbouncer")).find(|path| path.is_file())
}

/// A program on `PATH` or in a system folder.
pub(crate) fn on_path(name: &str) -> Result<PathBuf, SandboxError> {
    path_folders().into_iter().map(|folder| folder.join(name)).find(|path| path.is_file()).ok_or(
        SandboxError::Missing {
            what: name.to_owned(),
            remedy: format!("install it: apt-get install {name}"),
        },
    )
}

/// Ties go to the first found.
fn choose(found: Vec<Program>, at_least: Option<u32>) -> Option<Program> {
    let wanted = found.into_iter().filter(|program| program.major >= at_least.unwrap_or(0));
    match at_least {
        Some(_) => wanted.min_by_key(|program| program.major),
        None => wanted.rev().max_by_key(|program| program.major),
    }
}

fn is_full(install: &PgInstall) -> bool {
    install.program("psql").is_some() && install.program("pg_dump").is_some()
}

fn path_folders() -> Vec<PathBuf> {
    env::split_paths(&owner::search_path()).filter(|path| path.is_absolute()).collect()
}

/// Every folder that may hold PostgreSQL programs, the preferred ones first.
fn bindirs() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for servers in servers_folders() {
        folders.extend(children(&servers).into_iter().map(|install| install.join("bin")));
    }
    let system = children(Path::new("/usr/lib/postgresql"));
    folders.extend(system.into_iter().map(|install| install.join("bin")));
    folders.extend(path_folders());
    folders
}

fn children(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn version_of(program: &Path) -> Option<(u32, String)> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output().ok()?;
    if !output.status.success() {
        return None;
    }
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

/// `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)` -> 15 and `15.18`.
fn parse_version(text: &str) -> Option<(u32, String)> {
    let version = text.split("(PostgreSQL)").nth(1)?.split_whitespace().next()?;
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    Some((digits.parse().ok()?, version.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_the_programs_print() {
        for (text, expected) in [
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", Some((15, "15.18"))),
            ("pg_dump (PostgreSQL) 17.10\n", Some((17, "17.10"))),
            ("postgres (PostgreSQL) 19beta1\n", Some((19, "19beta1"))),
            ("postgres (PostgreSQL) devel\n", None),
            ("mysqld  Ver 9.7.4\n", None),
            ("", None),
        ] {
            let expected = expected.map(|(major, version)| (major, version.to_owned()));
            assert_eq!(parse_version(text), expected, "{text}");
        }
    }

    #[test]
    fn the_nearest_version_is_chosen_that_is_new_enough() {
        let program = |name: &str, major| Program { path: PathBuf::from(name), major };
        let found = || vec![program("a", 17), program("b", 15), program("c", 17)];
        for (at_least, expected) in
            [(None, Some("a")), (Some(14), Some("b")), (Some(16), Some("a")), (Some(18), None)]
        {
            let chosen = choose(found(), at_least);
            assert_eq!(chosen.map(|one| one.path), expected.map(PathBuf::from), "{at_least:?}");
        }
    }
}
