//! A certificate for a throwaway server, made by the `openssl` program.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::TlsOptions;
use crate::{SandboxError, find, owner::Owner, process};

/// Writes `server.crt` and `server.key` into the data folder; returns what clients must trust.
pub(super) async fn create(
    options: &TlsOptions,
    owner: Owner,
    folder: &Path,
) -> Result<PathBuf, SandboxError> {
    let openssl = find::on_path("openssl")?;
    let data = folder.join("data");
    let names = match options.names.as_slice() {
        [] => "DNS:localhost,IP:127.0.0.1".to_owned(),
        names => names.join(","),
    };
    let names = format!("subjectAltName={names}");
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
    let (server_key, server_cert) = (data.join("server.key"), data.join("server.crt"));
    let mut server = owner.command(&openssl, folder);
    server.args(["req", "-x509", "-subj", "/CN=sandbox server"]).args(key);
    server.arg("-keyout").arg(&server_key).arg("-out").arg(&server_cert);
    server.arg("-addext").arg(&names);
    let ca_cert = folder.join("ca.crt");
    if options.self_signed {
        process::run(server).await?;
        fs::copy(&server_cert, &ca_cert)
            .map_err(SandboxError::io(format!("write {}", ca_cert.display())))?;
    } else {
        let ca_key = folder.join("ca.key");
        let mut ca = owner.command(&openssl, folder);
        ca.args(["req", "-x509", "-subj", "/CN=sandbox authority"]).args(key);
        ca.arg("-keyout").arg(&ca_key).arg("-out").arg(&ca_cert);
        ca.args(["-addext", "keyUsage=critical,keyCertSign"]);
        process::run(ca).await?;
        server.arg("-CA").arg(&ca_cert).arg("-CAkey").arg(&ca_key);
        server.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        process::run(server).await?;
    }
    fs::set_permissions(&server_key, fs::Permissions::from_mode(0o600))
        .map_err(SandboxError::io(format!("close {}", server_key.display())))?;
    Ok(ca_cert)
}
