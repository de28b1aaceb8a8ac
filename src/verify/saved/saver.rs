//! Writes the file.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use super::{Header, format, format::Entry};

/// So much may wait to be written.
const BUFFER: usize = 256 << 10;

/// What has come since the file was begun makes it worth beginning anew, in bytes.
const LARGE: u64 = 4 << 20;

/// A file that is being written.
#[derive(Debug)]
pub(in crate::verify) struct Saver {
    file: File,
    path: PathBuf,
    chain: u32,
    buffer: Vec<u8>,
    /// As it was begun, and since.
    begun: u64,
    bytes: u64,
}

impl Saver {
    /// Begins a file in place of the one that is there: `entries` pushes what is known.
    pub(in crate::verify) fn begin(
        path: &Path,
        header: &Header,
        entries: impl FnOnce(&mut Self) -> io::Result<()>,
    ) -> io::Result<Self> {
        let new = in_its_place(path);
        let file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        let (path, buffer) = (path.to_owned(), serde_json::to_vec(header)?);
        let mut saver = Self { file, path, chain: 0, buffer, begun: 0, bytes: 0 };
        let begun = saver
            .flush()
            .and_then(|()| entries(&mut saver))
            .and_then(|()| saver.flush())
            .and_then(|()| std::fs::rename(&new, &saver.path));
        saver.begun = saver.bytes;
        match begun {
            Ok(()) => Ok(saver),
            Err(e) => {
                super::gone(&new)?;
                Err(e)
            }
        }
    }

    /// Adds an entry. It is written with the next [`Saver::flush`], if not before.
    pub(in crate::verify) fn push(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        entry.push(&mut self.buffer);
        if self.buffer.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    /// Whatever was added is in the file, and stays there when the process is killed.
    pub(in crate::verify) fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let (prefix, chain) = format::prefix(self.chain, &self.buffer);
        self.chain = chain;
        let mut frame = [io::IoSlice::new(&prefix), io::IoSlice::new(&self.buffer)];
        write_all(&mut self.file, &mut frame)?;
        self.bytes += (prefix.len() + self.buffer.len()) as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Whether it has grown so much that it is better begun anew.
    pub(in crate::verify) fn is_large(&self) -> bool {
        self.bytes - self.begun > LARGE.max(self.begun)
    }

    /// Where it lies.
    pub(in crate::verify) fn path(&self) -> &Path {
        &self.path
    }
}

/// Where a file is begun that takes the place of another one.
pub(super) fn in_its_place(path: &Path) -> PathBuf {
    path.with_extension("new")
}

fn write_all(file: &mut File, mut frame: &mut [io::IoSlice<'_>]) -> io::Result<()> {
    while !frame.is_empty() {
        match file.write_vectored(frame) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => io::IoSlice::advance_slices(&mut frame, n),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
