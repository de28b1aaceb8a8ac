//! Passwords for servers that live for a minute.

use std::{fs::File, io::Read};

use crate::SandboxError;

/// 32 random hexadecimal digits.
pub(crate) fn random_hex() -> Result<String, SandboxError> {
    Ok(format!("{:016x}{:016x}", random_u64()?, random_u64()?))
}

/// A random number from the kernel.
pub(crate) fn random_u64() -> Result<u64, SandboxError> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(SandboxError::io("read /dev/urandom"))?;
    Ok(u64::from_ne_bytes(bytes))
}
