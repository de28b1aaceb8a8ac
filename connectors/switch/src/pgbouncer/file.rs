//! Replacing the configuration file: whole or not at all, with the owner and mode it had.
//!
//! The new contents can be written and made durable ahead, so that only a rename is left.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
};

/// Tells apart the files of several switches in one process.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// New contents beside the file they will replace; removed when dropped before that.
#[derive(Debug)]
pub(super) struct Draft {
    contents: Vec<u8>,
    draft: PathBuf,
    /// Links resolved, so that a rename replaces the file and not the link to it.
    path: PathBuf,
    used: bool,
}

impl Draft {
    /// Writes `contents` next to `path` with the same owner, group and mode, and waits until they
    /// are on disk.
    pub(super) fn write(path: &Path, contents: Vec<u8>) -> io::Result<Self> {
        let path = fs::canonicalize(path)?;
        let like = fs::metadata(&path)?;
        let draft = beside(&path, &name_of_ours())?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        let ready = Self { contents, draft, path, used: false };
        let now = file.metadata()?;
        if (now.uid(), now.gid()) != (like.uid(), like.gid()) {
            fchown(&file, Some(like.uid()), Some(like.gid()))?;
        }
        file.set_permissions(Permissions::from_mode(like.mode() & 0o7777))?;
        file.write_all(&ready.contents)?;
        file.sync_all()?;
        Ok(ready)
    }

    pub(super) fn contents(&self) -> &[u8] {
        &self.contents
    }

    /// Puts it in place; atomic. Durable after [`sync_folder`].
    pub(super) fn put(mut self) -> io::Result<()> {
        fs::rename(&self.draft, &self.path)?;
        self.used = true;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.used
            && let Err(error) = fs::remove_file(&self.draft)
        {
            tracing::debug!(%error, path = %self.draft.display(), "a draft is left");
        }
    }
}

/// What tells the file from one that is put in its place: device and number.
pub(super) fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let like = fs::metadata(path)?;
    Ok((like.dev(), like.ino()))
}

/// Makes a rename survive a power cut.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    let path = fs::canonicalize(path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Removes drafts of processes that were killed.
pub(super) fn remove_leftovers(path: &Path) -> io::Result<()> {
    let path = fs::canonicalize(path)?;
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let prefix = format!(".{}.cutover-", name.to_string_lossy());
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let owner = name.to_string_lossy().strip_prefix(&prefix).and_then(|rest| {
            let pid = rest.split('-').next()?;
            pid.parse::<u32>().ok()
        });
        if let Some(pid) = owner
            && !Path::new(&format!("/proc/{pid}")).exists()
        {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn name_of_ours() -> String {
    format!("{}-{}", process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

fn beside(path: &Path, ending: &str) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::other("it has no file name"))?;
    Ok(path.with_file_name(format!(".{}.cutover-{ending}", name.to_string_lossy())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut all: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        all.sort();
        all
    }

    #[test]
    fn a_file_is_replaced_with_its_owner_and_mode_and_links_stay_links() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.ini");
        let link = folder.path().join("link.ini");
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        // Only root may give files away; for others the owner is the same anyway.
        let owned = std::os::unix::fs::chown(&file, Some(65_534), Some(65_534)).is_ok();
        std::os::unix::fs::symlink("a.ini", &link).unwrap();

        let draft = Draft::write(&link, b"new".to_vec()).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"old");
        draft.put().unwrap();
        sync_folder(&link).unwrap();

        let now = fs::metadata(&file).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert_eq!(now.mode() & 0o7777, 0o640);
        assert!(!owned || (now.uid(), now.gid()) == (65_534, 65_534));
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(names(folder.path()), ["a.ini", "link.ini"]);
    }

    #[test]
    fn drafts_do_not_stay() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.ini");
        fs::write(&file, "old").unwrap();
        let draft = Draft::write(&file, b"new".to_vec()).unwrap();
        // A process id above the kernel's limit never lives.
        fs::write(folder.path().join(".a.ini.cutover-4194305-0"), "x").unwrap();
        fs::write(folder.path().join(".a.ini.cutover-note"), "x").unwrap();
        remove_leftovers(&file).unwrap();
        assert_eq!(names(folder.path()).len(), 3, "the living draft, a stranger's file, the file");
        drop(draft);
        assert_eq!(names(folder.path()), [".a.ini.cutover-note", "a.ini"]);
    }
}
