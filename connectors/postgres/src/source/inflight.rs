//! Transactions in progress: what the server sends of them before they commit.
//!
//! Kept as the bytes that came, per top-level transaction, in memory up to a budget for all of
//! them together and in an unlinked file past it: a crash leaves nothing behind. Decoded when
//! the transaction commits.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::{Buf, Bytes, BytesMut};
use cutover_core::port::Result;

use super::stops;

/// Memory for all transactions in progress together.
pub(super) const BUDGET: usize = 32 << 20;

/// Memory grows in pieces of this size, and files are read in such pieces.
const PIECE: usize = 1 << 20;

/// All transactions in progress.
pub(super) struct InFlight {
    folder: Arc<Path>,
    budget: usize,
    memory: usize,
    transactions: HashMap<u32, Pending>,
}

/// One of them.
#[derive(Default)]
pub(super) struct Pending {
    /// Subtransactions that were rolled back: what belongs to them is left out.
    pub(super) aborted: HashSet<u32>,
    /// Our own sink wrote it: nothing of it is kept.
    pub(super) ours: bool,
    memory: Vec<Vec<u8>>,
    file: Option<File>,
}

impl InFlight {
    pub(super) fn new(folder: Arc<Path>, budget: usize) -> Self {
        Self { folder, budget, memory: 0, transactions: HashMap::new() }
    }

    /// A transaction whose pieces come now.
    pub(super) fn entry(&mut self, xid: u32) -> &mut Pending {
        self.transactions.entry(xid).or_default()
    }

    /// Keeps one message of a transaction.
    pub(super) fn keep(&mut self, xid: u32, message: &[u8]) {
        let pending = self.transactions.entry(xid).or_default();
        if pending.ours {
            return;
        }
        let before = pending.memory.last().map_or(0, Vec::capacity);
        let needed = message.len() + 4;
        let grown = match pending.memory.last_mut() {
            Some(last) if last.len() + needed <= PIECE => last,
            _ => {
                pending.memory.push(Vec::with_capacity(needed));
                pending.memory.last_mut().expect("pushed in the line above")
            }
        };
        let fresh = grown.is_empty();
        // A frame is at most 1 GiB: its length fits.
        grown.extend_from_slice(&(message.len() as u32).to_be_bytes());
        grown.extend_from_slice(message);
        self.memory += grown.capacity() - if fresh { 0 } else { before };
    }

    /// Forgets a transaction that was rolled back, or what belongs to one of its
    /// subtransactions.
    pub(super) fn abort(&mut self, xid: u32, subxid: u32) {
        if xid == subxid {
            self.take(xid);
        } else if let Some(pending) = self.transactions.get_mut(&xid) {
            pending.aborted.insert(subxid);
        }
    }

    /// Hands a transaction out.
    pub(super) fn take(&mut self, xid: u32) -> Option<Pending> {
        let pending = self.transactions.remove(&xid)?;
        self.memory -= pending.held();
        Some(pending)
    }

    /// Writes transactions out, the largest first, until the rest fits into the budget.
    ///
    /// # Errors
    ///
    /// Definite `CUT0206` when the folder has no room.
    pub(super) async fn shrink(&mut self) -> Result<()> {
        while self.memory > self.budget {
            let Some(largest) = self.transactions.values_mut().max_by_key(|p| p.held()) else {
                return Ok(());
            };
            self.memory -= largest.held();
            let pieces = std::mem::take(&mut largest.memory);
            let file = largest.file.take();
            let folder: PathBuf = self.folder.to_path_buf();
            let written = blocking(move || write(&folder, file, &pieces)).await;
            largest.file = Some(written.map_err(|e| stops::no_spill(&self.folder, &e))?);
        }
        Ok(())
    }
}

impl Pending {
    fn held(&self) -> usize {
        self.memory.iter().map(Vec::capacity).sum()
    }

    /// Whether a part of it is on disk.
    pub(super) fn spilled(&self) -> bool {
        self.file.is_some()
    }

    /// Its messages in the order they came.
    pub(super) async fn replay(self, folder: &Path) -> Result<Replay> {
        let file = match self.file {
            Some(mut file) => {
                let back = blocking(move || file.seek(SeekFrom::Start(0)).map(|_| file)).await;
                Some(back.map_err(|e| stops::no_spill(folder, &e))?)
            }
            None => None,
        };
        Ok(Replay {
            folder: folder.to_path_buf(),
            file,
            carry: BytesMut::new(),
            memory: self.memory.into_iter(),
        })
    }
}

/// Reads a transaction back piece by piece.
pub(super) struct Replay {
    folder: PathBuf,
    file: Option<File>,
    carry: BytesMut,
    memory: std::vec::IntoIter<Vec<u8>>,
}

impl Replay {
    /// The next messages; `None` at the end.
    pub(super) async fn next(&mut self, out: &mut Vec<Bytes>) -> Result<bool> {
        while let Some(mut file) = self.file.take() {
            let mut buffer = std::mem::take(&mut self.carry);
            // A message larger than a piece is read to its end.
            let wanted = match buffer.get(..4) {
                Some(length) => PIECE.max(length_of(length) + 4 - buffer.len()),
                None => PIECE,
            };
            let read = blocking(move || {
                let at = buffer.len();
                buffer.resize(at + wanted, 0);
                let n = read_up_to(&mut file, &mut buffer[at..])?;
                buffer.truncate(at + n);
                Ok((file, buffer, n))
            })
            .await;
            let (file, mut buffer, n) = read.map_err(|e| stops::no_spill(&self.folder, &e))?;
            if n == 0 {
                if !buffer.is_empty() {
                    let cut = io::Error::from(io::ErrorKind::UnexpectedEof);
                    return Err(stops::no_spill(&self.folder, &cut));
                }
                break;
            }
            let whole = whole_messages(&buffer);
            let taken = buffer.split_to(whole).freeze();
            self.carry = buffer;
            self.file = Some(file);
            if whole > 0 {
                split(taken, out);
                return Ok(true);
            }
        }
        match self.memory.next() {
            Some(piece) => {
                split(Bytes::from(piece), out);
                Ok(true)
            }
            None => Ok(false),
        }
    }
}

fn length_of(bytes: &[u8]) -> usize {
    bytes.iter().take(4).fold(0, |n, b| n << 8 | usize::from(*b))
}

fn whole_messages(data: &[u8]) -> usize {
    let mut at = 0;
    while let Some(length) = data.get(at..at + 4) {
        let end = at + 4 + length_of(length);
        if end > data.len() {
            break;
        }
        at = end;
    }
    at
}

fn split(mut data: Bytes, out: &mut Vec<Bytes>) {
    while data.len() >= 4 {
        let length = data.get_u32() as usize;
        out.push(data.split_to(length));
    }
}

fn write(folder: &Path, file: Option<File>, pieces: &[Vec<u8>]) -> io::Result<File> {
    let mut file = match file {
        Some(file) => file,
        None => {
            std::fs::create_dir_all(folder)?;
            tempfile::tempfile_in(folder)?
        }
    };
    for piece in pieces {
        file.write_all(piece)?;
    }
    Ok(file)
}

fn read_up_to(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut n = 0;
    while n < buffer.len() {
        match file.read(&mut buffer[n..]) {
            Ok(0) => break,
            Ok(more) => n += more,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(n)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(io::Error::other("the worker for files ended")))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(pending: Pending, folder: &Path) -> Vec<Bytes> {
        let mut replay = pending.replay(folder).await.unwrap();
        let mut out = Vec::new();
        while replay.next(&mut out).await.unwrap() {}
        out
    }

    #[tokio::test]
    async fn what_was_kept_comes_back_in_order_from_file_and_memory() {
        let folder = tempfile::tempdir().unwrap();
        let mut flight = InFlight::new(Arc::from(folder.path()), 64 << 10);
        let message = |i: u32| vec![i as u8; (i as usize * 37) % 5_000 + 1];
        for i in 0..3_000 {
            flight.keep(7, &message(i));
            flight.keep(8, b"other");
            if i % 100 == 0 {
                flight.shrink().await.unwrap();
                assert!(flight.memory <= flight.budget);
            }
        }
        flight.keep(7, &vec![1; 3 << 20]);
        flight.shrink().await.unwrap();
        flight.keep(7, b"last");
        let pending = flight.take(7).unwrap();
        assert!(pending.spilled());
        let got = all(pending, folder.path()).await;
        assert_eq!(got.len(), 3_002);
        for (i, m) in got[..3_000].iter().enumerate() {
            assert_eq!(m[..], message(i as u32)[..], "{i}");
        }
        assert_eq!(got[3_000].len(), 3 << 20);
        assert_eq!(got[3_001], "last");
        assert_eq!(all(flight.take(8).unwrap(), folder.path()).await.len(), 3_000);
        assert_eq!(flight.memory, 0);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "a file has a name");
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_written_is_a_named_stop() {
        let mut flight = InFlight::new(Arc::from(Path::new("/proc/nowhere")), 10);
        flight.keep(1, &[0; 100]);
        assert_eq!(flight.shrink().await.unwrap_err().code(), Some(stops::NO_SPILL));
    }

    #[test]
    fn aborted_work_is_forgotten() {
        let mut flight = InFlight::new(Arc::from(Path::new("/")), 1 << 20);
        flight.keep(1, b"a");
        flight.abort(1, 5);
        assert!(flight.entry(1).aborted.contains(&5));
        flight.abort(1, 1);
        assert!(flight.take(1).is_none());
        assert_eq!(flight.memory, 0);
        flight.entry(2).ours = true;
        flight.keep(2, b"ours");
        assert_eq!(flight.memory, 0);
    }
}
