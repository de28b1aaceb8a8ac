//! A fresh data folder in a fraction of the time `initdb` takes.
//!
//! One data folder per installation, locale and user is kept in the cache and copied. Each copy
//! gets a system identifier of its own. Without a usable cache `initdb` runs every time.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::{PgOptions, SUPERUSER, sysid};
use crate::{PgInstall, SandboxError, owner, owner::Owner, process, secret};

/// Puts a data folder at `folder/data` and returns the superuser's password in it.
pub(super) async fn lay(
    install: &PgInstall,
    options: &PgOptions,
    owner: Owner,
    folder: &Path,
) -> Result<String, SandboxError> {
    let Some(template) = template(install, options, owner).await else {
        return create(install, options, owner, folder).await;
    };
    let mut copy = owner.command("cp", folder);
    copy.arg("-a").arg(template.join("data")).arg(folder);
    process::run(copy).await?;
    sysid::renew(&folder.join("data"), secret::random_u64()?)?;
    let path = template.join("password");
    fs::read_to_string(&path).map_err(SandboxError::io(format!("read {}", path.display())))
}

/// The cached folder for these options, made now if need be. None when it cannot be kept.
async fn template(install: &PgInstall, options: &PgOptions, owner: Owner) -> Option<PathBuf> {
    let cache = owner::cache_folder()?.join("templates");
    let template = cache.join(key(install, options, owner));
    if template.join("password").is_file() {
        return Some(template);
    }
    match make(install, options, owner, &cache, &template).await {
        Ok(()) => Some(template),
        Err(error) => {
            tracing::debug!(%error, "no data folder is kept in the cache");
            None
        }
    }
}

async fn make(
    install: &PgInstall,
    options: &PgOptions,
    owner: Owner,
    cache: &Path,
    template: &Path,
) -> Result<(), SandboxError> {
    fs::create_dir_all(cache).map_err(SandboxError::io(format!("create {}", cache.display())))?;
    // In the cache itself, so that the rename below is one step and nobody sees half of it.
    let draft = tempfile::Builder::new()
        .prefix(".draft-")
        .tempdir_in(cache)
        .map_err(SandboxError::io(format!("create a folder in {}", cache.display())))?;
    owner.give(draft.path())?;
    let password = create(install, options, owner, draft.path()).await?;
    let path = draft.path().join("password");
    fs::write(&path, password)
        .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o600)))
        .map_err(SandboxError::io(format!("write {}", path.display())))?;
    match fs::rename(draft.path(), template) {
        Ok(()) => {
            // Moved away: there is nothing left to remove.
            _ = draft.keep();
            Ok(())
        }
        Err(_) if template.join("password").is_file() => Ok(()),
        Err(error) => Err(SandboxError::io(format!("create {}", template.display()))(error)),
    }
}

/// Runs `initdb` into `folder/data`.
async fn create(
    install: &PgInstall,
    options: &PgOptions,
    owner: Owner,
    folder: &Path,
) -> Result<String, SandboxError> {
    let password = secret::random_hex()?;
    let file = folder.join("initdb-password");
    fs::write(&file, &password)
        .and_then(|()| fs::set_permissions(&file, fs::Permissions::from_mode(0o600)))
        .map_err(SandboxError::io(format!("write {}", file.display())))?;
    owner.give(&file)?;
    let mut initdb = owner.command(install.bindir.join("initdb"), folder);
    initdb.args(["--no-sync", "-E", "UTF8", "-A", "scram-sha-256", "-U", SUPERUSER]);
    initdb.arg("-D").arg(folder.join("data")).arg("--pwfile").arg(&file);
    match &options.locale {
        Some(locale) => initdb.arg("--locale").arg(locale),
        None => initdb.arg("--no-locale"),
    };
    process::run(initdb).await?;
    fs::remove_file(&file).map_err(SandboxError::io(format!("remove {}", file.display())))?;
    Ok(password)
}

/// Tells apart what must not share a data folder.
fn key(install: &PgInstall, options: &PgOptions, owner: Owner) -> String {
    let mut hash = DefaultHasher::new();
    install.bindir.hash(&mut hash);
    options.locale.hash(&mut hash);
    format!("pg{}-u{}-{:016x}", install.version, owner.uid, hash.finish())
}
