//! As whom servers run, and where their files go.

use std::{
    env, fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
};

use crate::SandboxError;

/// The user servers run as: ourselves, or somebody unprivileged when we are root, because
/// PostgreSQL refuses root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    other: Option<(u32, u32)>,
}

impl Owner {
    /// Finds out who we are.
    pub(crate) fn find() -> Result<Self, SandboxError> {
        let uid = effective_uid()?;
        if uid != 0 {
            return Ok(Self { uid, other: None });
        }
        let passwd =
            fs::read_to_string("/etc/passwd").map_err(SandboxError::io("read /etc/passwd"))?;
        let (uid, gid) = ["postgres", "nobody"]
            .iter()
            .find_map(|name| ids_of(&passwd, name))
            .ok_or_else(|| SandboxError::Missing {
                what: "an unprivileged user (postgres or nobody)".to_owned(),
                remedy: "create one: useradd --system postgres".to_owned(),
            })?;
        Ok(Self { uid, other: Some((uid, gid)) })
    }

    /// A command with a clean environment that will run as this user.
    pub(crate) fn command(self, program: impl AsRef<Path>, home: &Path) -> Command {
        let mut command = Command::new(program.as_ref());
        // PGDATA, PGPORT, PGOPTIONS and a locale of ours must not leak into a server.
        command.env_clear().env("PATH", search_path()).env("HOME", home).env("LC_ALL", "C");
        command.current_dir(home);
        if let Some((uid, gid)) = self.other {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Gives a file or folder to this user.
    pub(crate) fn give(self, path: &Path) -> Result<(), SandboxError> {
        let Some((uid, gid)) = self.other else { return Ok(()) };
        chown(path, Some(uid), Some(gid))
            .map_err(SandboxError::io(format!("give {} to user {uid}", path.display())))
    }

    /// Creates an empty folder that this user owns and others may enter but not list.
    pub(crate) fn temporary_folder(self, prefix: &str) -> Result<PathBuf, SandboxError> {
        let base = self.temporary_base();
        let folder = tempfile::Builder::new()
            .prefix(prefix)
            .tempdir_in(&base)
            .map_err(SandboxError::io(format!("create a folder in {}", base.display())))?
            .keep();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o711))
            .map_err(SandboxError::io(format!("open {}", folder.display())))?;
        self.give(&folder)?;
        Ok(folder)
    }

    /// The configured temporary folder, or a common one where this user cannot get at it.
    fn temporary_base(self) -> PathBuf {
        let configured = env::temp_dir();
        let usable = self.other.is_none() || others_may(&configured, 0o003);
        if usable { configured } else { PathBuf::from("/tmp") }
    }
}

/// Whether everybody may use `path` with `bits`, and enter every folder above it.
fn others_may(path: &Path, bits: u32) -> bool {
    let Ok(path) = path.canonicalize() else { return false };
    path.ancestors().enumerate().all(|(depth, folder)| {
        let need = if depth == 0 { bits } else { 0o001 };
        fs::metadata(folder).is_ok_and(|meta| meta.mode() & need == need)
    })
}

/// The folder for what may be kept from one run to the next: beside the servers that the set-up
/// script fetched. None where there is no home.
pub(crate) fn cache_folder() -> Option<PathBuf> {
    if effective_uid().is_ok_and(|uid| uid == 0) {
        // Below /root an unprivileged server could not read it.
        return Some(PathBuf::from("/var/cache/cutover"));
    }
    user_cache_folder()
}

/// `$XDG_CACHE_HOME/cutover`, by default `~/.cache/cutover`.
pub(crate) fn user_cache_folder() -> Option<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(base.join("cutover"))
}

/// `PATH` with the folders in which servers' own programs live.
pub(crate) fn search_path() -> String {
    let path = env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
}

fn effective_uid() -> Result<u32, SandboxError> {
    Ok(fs::metadata("/proc/self").map_err(SandboxError::io("read /proc/self"))?.uid())
}

fn ids_of(passwd: &str, name: &str) -> Option<(u32, u32)> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != name {
            return None;
        }
        Some((fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_from_the_line_with_exactly_that_name() {
        let passwd = "postgres2:x:1:2::/:\nroot:x:0:0::/:\npostgres:x:101:104:a,b:/var:/bin/sh\n";
        assert_eq!(ids_of(passwd, "postgres"), Some((101, 104)));
        assert_eq!(ids_of(passwd, "nobody"), None);
        assert_eq!(ids_of("postgres:x:bad:1::", "postgres"), None);
    }

    #[test]
    fn a_private_folder_is_not_usable_by_others() {
        let outer = tempfile::tempdir().unwrap();
        let inner = outer.path().join("inner");
        fs::create_dir(&inner).unwrap();
        fs::set_permissions(&inner, fs::Permissions::from_mode(0o777)).unwrap();
        fs::set_permissions(outer.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(!others_may(&inner, 0o003), "the folder above is closed");
        fs::set_permissions(outer.path(), fs::Permissions::from_mode(0o711)).unwrap();
        assert!(others_may(&inner, 0o003));
    }
}
