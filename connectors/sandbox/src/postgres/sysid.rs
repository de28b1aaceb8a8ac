//! A new system identifier for a copied data folder.
//!
//! Two servers with the same identifier look like one and the same to anybody who asks them. It
//! stands in two places: in `pg_control`, under a checksum, and at the head of the log.

use std::{fs, path::Path};

use crate::SandboxError;

/// Where the identifier is in the long header of a log segment.
const IN_SEGMENT: usize = 24;

/// Gives a cleanly stopped data folder another system identifier.
pub(super) fn renew(data: &Path, id: u64) -> Result<(), SandboxError> {
    let control = data.join("global/pg_control");
    edit(&control, |bytes| set_in_control(bytes, id))?;
    let wal = data.join("pg_wal");
    let entries =
        fs::read_dir(&wal).map_err(SandboxError::io(format!("read {}", wal.display())))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name.len() == 24 && name.to_string_lossy().bytes().all(|byte| byte.is_ascii_hexdigit()) {
            edit(&entry.path(), |bytes| {
                let place = bytes.get_mut(IN_SEGMENT..IN_SEGMENT + 8)?;
                place.copy_from_slice(&id.to_ne_bytes());
                Some(())
            })?;
        }
    }
    Ok(())
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>) -> Option<()>) -> Result<(), SandboxError> {
    let what = || format!("set the system identifier in {}", path.display());
    let mut bytes = fs::read(path).map_err(SandboxError::io(what()))?;
    change(&mut bytes).ok_or_else(|| SandboxError::Io {
        what: what(),
        source: std::io::Error::new(std::io::ErrorKind::InvalidData, "unknown layout"),
    })?;
    fs::write(path, bytes).map_err(SandboxError::io(what()))
}

/// The identifier comes first. The checksum's place differs between versions, but it is where the
/// checksum of everything before it stands.
fn set_in_control(bytes: &mut [u8], id: u64) -> Option<()> {
    let place = (16..bytes.len().min(512)).step_by(4).find(|&at| {
        bytes.get(at..at + 4).is_some_and(|sum| sum == crc32c(&bytes[..at]).to_ne_bytes())
    })?;
    bytes[..8].copy_from_slice(&id.to_ne_bytes());
    let sum = crc32c(&bytes[..place]).to_ne_bytes();
    bytes[place..place + 4].copy_from_slice(&sum);
    Some(())
}

/// CRC-32C, bit by bit: a few hundred bytes, once per server.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_changed_control_file_has_a_right_checksum() {
        let mut bytes = vec![7_u8; 288];
        bytes.extend(crc32c(&[7; 288]).to_ne_bytes());
        bytes.resize(8192, 0);
        set_in_control(&mut bytes, 42).unwrap();
        assert_eq!(bytes[..8], 42_u64.to_ne_bytes());
        assert_eq!(bytes[288..292], crc32c(&bytes[..288]).to_ne_bytes());
    }

    #[test]
    fn an_unknown_control_file_is_left_alone() {
        let mut bytes = vec![7_u8; 8192];
        assert_eq!(set_in_control(&mut bytes, 42), None);
        assert_eq!(bytes, vec![7_u8; 8192]);
    }
}
