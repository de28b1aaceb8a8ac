//! Large transactions: what the server sends of them while they run.
//!
//! Kept as the bytes that came, per top-level transaction, in memory up to a budget for all of
//! them together and in an unlinked file past it: a crash leaves nothing behind. The reader of the
//! stream appends, others read along; what has ended is kept until it is confirmed.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::{Buf, Bytes, BytesMut};
use cutover_core::{model::event::Relation, port::Result};

use super::stops;

/// Memory for all large transactions together.
pub(super) const BUDGET: usize = 32 << 20;

/// Bytes and number of those that may wait to be confirmed. The rest stays in the server's log: each
/// may have a file open, and all of them are in the same folder.
const BACKLOG: (u64, usize) = (1 << 30, 200);

/// Memory grows in pieces of this size, and files are read in such pieces.
const PIECE: usize = 1 << 20;

/// All large transactions of a stream, shared by its reader and its consumer.
pub(super) struct InFlight {
    folder: Arc<Path>,
    budget: usize,
    backlog: (u64, usize),
    memory: Arc<AtomicUsize>,
    kept: Mutex<HashMap<u32, Stored>>,
    /// The last shape of each table: the same shape is the same `Arc`, wherever it is announced.
    shapes: Mutex<HashMap<u32, Arc<Relation>>>,
}

struct Stored {
    kept: Arc<Kept>,
    /// Where it committed.
    end: Option<u64>,
}

/// One transaction.
pub(super) struct Kept {
    content: Mutex<Content>,
    memory: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Content {
    /// The beginning, and how much that is.
    file: Option<Arc<File>>,
    filed: u64,
    /// What follows.
    pieces: Vec<Bytes>,
    last: Vec<u8>,
    total: u64,
    held: usize,
    /// Subtransactions that were rolled back.
    aborted: HashSet<u32>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds a lock; the state is whole in any case.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl InFlight {
    pub(super) fn new(folder: Arc<Path>, budget: usize) -> Self {
        Self {
            folder,
            budget,
            backlog: BACKLOG,
            memory: Arc::default(),
            kept: Mutex::default(),
            shapes: Mutex::default(),
        }
    }

    /// The transaction whose pieces come now.
    pub(super) fn entry(&self, xid: u32) -> Arc<Kept> {
        let new = || Stored {
            kept: Arc::new(Kept { content: Mutex::default(), memory: Arc::clone(&self.memory) }),
            end: None,
        };
        Arc::clone(&lock(&self.kept).entry(xid).or_insert_with(new).kept)
    }

    /// A transaction of which something came.
    pub(super) fn get(&self, xid: u32) -> Option<Arc<Kept>> {
        lock(&self.kept).get(&xid).map(|s| Arc::clone(&s.kept))
    }

    /// It committed there; its content is kept until [`InFlight::confirmed`].
    pub(super) fn committed(&self, xid: u32, end: u64) {
        if let Some(stored) = lock(&self.kept).get_mut(&xid) {
            stored.end = Some(end);
        }
    }

    /// Whether no more can be taken until some are confirmed. Those in progress do not count: only
    /// what follows says how they end.
    pub(super) fn is_full(&self) -> bool {
        let kept = lock(&self.kept);
        let waiting = kept.values().filter(|s| s.end.is_some()).map(|s| s.kept.total());
        let (bytes, number) = waiting.fold((0, 0), |(bytes, n), total| (bytes + total, n + 1));
        bytes >= self.backlog.0 || number >= self.backlog.1
    }

    /// Forgets a transaction: it was rolled back, or is of no interest.
    pub(super) fn forget(&self, xid: u32) {
        let stored = lock(&self.kept).remove(&xid);
        if let Some(stored) = stored {
            stored.kept.clear();
        }
    }

    /// Forgets what committed up to there.
    pub(super) fn confirmed(&self, lsn: u64) {
        lock(&self.kept).retain(|_, stored| stored.end.is_none_or(|end| end > lsn));
    }

    /// The same shape as the last one of its table is the same `Arc`.
    pub(super) fn intern(&self, relation: Relation) -> Arc<Relation> {
        let mut shapes = lock(&self.shapes);
        match shapes.get(&relation.id) {
            Some(known) if **known == relation => Arc::clone(known),
            _ => {
                let new = Arc::new(relation);
                shapes.insert(new.id, Arc::clone(&new));
                new
            }
        }
    }

    /// Writes transactions out, the largest first, until the rest fits into the budget.
    ///
    /// # Errors
    ///
    /// Definite `CUT0206` when the folder has no room.
    pub(super) async fn shrink(&self) -> Result<()> {
        while self.memory.load(Ordering::Relaxed) > self.budget {
            let largest = lock(&self.kept)
                .values()
                .map(|s| (s.kept.held(), Arc::clone(&s.kept)))
                .max_by_key(|(held, _)| *held);
            let Some((1.., kept)) = largest else { return Ok(()) };
            let (file, pieces) = kept.to_write();
            let folder = Arc::clone(&self.folder);
            let written = blocking(move || {
                let file = match file {
                    Some(file) => file,
                    None => {
                        std::fs::create_dir_all(&folder)?;
                        Arc::new(tempfile::tempfile_in(&folder)?)
                    }
                };
                pieces.iter().try_for_each(|piece| (&*file).write_all(piece))?;
                Ok((file, pieces))
            })
            .await;
            let (file, pieces) = written.map_err(|e| stops::no_spill(&self.folder, &e))?;
            kept.written(file, &pieces);
        }
        Ok(())
    }
}

impl Kept {
    /// Keeps one message.
    pub(super) fn keep(&self, message: &[u8]) {
        let mut content = lock(&self.content);
        let needed = message.len() + 4;
        if content.last.len() + needed > PIECE {
            self.seal(&mut content);
        }
        let before = content.last.capacity();
        let length = content.last.len();
        if length + needed > before {
            // Twice as much, but not beyond a piece: what is spare there is held for nothing.
            let capacity = (2 * before).min(PIECE).max(length + needed);
            content.last.reserve_exact(capacity - length);
        }
        // A frame is at most 1 GiB: its length fits.
        content.last.extend_from_slice(&(message.len() as u32).to_be_bytes());
        content.last.extend_from_slice(message);
        let grown = content.last.capacity() - before;
        content.held += grown;
        content.total += needed as u64;
        self.memory.fetch_add(grown, Ordering::Relaxed);
    }

    /// Forgets what belongs to a subtransaction.
    pub(super) fn abort(&self, subxid: u32) {
        lock(&self.content).aborted.insert(subxid);
    }

    /// Subtransactions that were rolled back so far.
    pub(super) fn aborted(&self) -> HashSet<u32> {
        lock(&self.content).aborted.clone()
    }

    /// How many bytes it has so far.
    pub(super) fn total(&self) -> u64 {
        lock(&self.content).total
    }

    fn held(&self) -> usize {
        lock(&self.content).held
    }

    /// The last piece does not grow any more.
    fn seal(&self, content: &mut Content) {
        let piece = std::mem::take(&mut content.last);
        let spare = piece.capacity() - piece.len();
        content.held -= spare;
        self.memory.fetch_sub(spare, Ordering::Relaxed);
        if !piece.is_empty() {
            content.pieces.push(Bytes::from(piece));
        }
    }

    fn clear(&self) {
        let content = std::mem::take(&mut *lock(&self.content));
        self.memory.fetch_sub(content.held, Ordering::Relaxed);
    }

    /// What is not in the file yet. It stays in memory until [`Kept::written`].
    fn to_write(&self) -> (Option<Arc<File>>, Vec<Bytes>) {
        let mut content = lock(&self.content);
        self.seal(&mut content);
        (content.file.clone(), content.pieces.clone())
    }

    fn written(&self, file: Arc<File>, pieces: &[Bytes]) {
        let mut content = lock(&self.content);
        // Rolled back meanwhile: only the reader appends, so there is nothing else.
        if content.pieces.len() < pieces.len() {
            return;
        }
        let bytes: usize = pieces.iter().map(Bytes::len).sum();
        content.pieces.drain(..pieces.len());
        content.file = Some(file);
        content.filed += bytes as u64;
        content.held -= bytes;
        self.memory.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn at(&self, at: u64, until: u64) -> Found {
        let content = lock(&self.content);
        let until = until.min(content.total);
        let length = |from: u64, to: u64| usize::try_from(to - from).unwrap_or(usize::MAX);
        if at >= until {
            return Found::Nothing;
        }
        if at < content.filed
            && let Some(file) = &content.file
        {
            return Found::File(Arc::clone(file), length(at, content.filed.min(until)).min(PIECE));
        }
        let mut from = content.filed;
        for piece in &content.pieces {
            let to = from + piece.len() as u64;
            if at < to {
                return Found::Memory(piece.slice(length(from, at)..length(from, to.min(until))));
            }
            from = to;
        }
        let last = &content.last[length(from, at)..length(from, until)];
        Found::Memory(Bytes::copy_from_slice(last))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.clear();
    }
}

enum Found {
    Nothing,
    Memory(Bytes),
    File(Arc<File>, usize),
}

/// Reads a transaction from its beginning.
pub(super) struct Cursor {
    kept: Arc<Kept>,
    folder: Arc<Path>,
    at: u64,
    carry: BytesMut,
}

impl Cursor {
    pub(super) fn new(kept: Arc<Kept>, folder: Arc<Path>) -> Self {
        Self { kept, folder, at: 0, carry: BytesMut::new() }
    }

    /// The next messages up to byte `until`, which must be a boundary between messages.
    pub(super) async fn next(&mut self, until: u64, out: &mut Vec<Bytes>) -> Result<bool> {
        loop {
            match self.kept.at(self.at, until) {
                Found::Nothing => return Ok(false),
                Found::Memory(bytes) => {
                    self.at += bytes.len() as u64;
                    split(bytes, out);
                    return Ok(true);
                }
                Found::File(file, length) => {
                    let at = self.at;
                    let read = blocking(move || {
                        let mut buffer = vec![0; length];
                        file.read_exact_at(&mut buffer, at).map(|()| buffer)
                    });
                    let read = read.await.map_err(|e| stops::no_spill(&self.folder, &e))?;
                    self.at += read.len() as u64;
                    self.carry.extend_from_slice(&read);
                    let whole = whole_messages(&self.carry);
                    // A message larger than a piece is read to its end.
                    if whole > 0 {
                        split(self.carry.split_to(whole).freeze(), out);
                        return Ok(true);
                    }
                }
            }
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

    async fn all(cursor: &mut Cursor, until: u64) -> Vec<Bytes> {
        let mut out = Vec::new();
        while cursor.next(until, &mut out).await.unwrap() {}
        out
    }

    #[tokio::test]
    async fn what_was_kept_comes_back_in_order_from_file_and_memory() {
        let folder = tempfile::tempdir().unwrap();
        let folder: Arc<Path> = Arc::from(folder.path());
        let flight = InFlight::new(Arc::clone(&folder), 64 << 10);
        let message = |i: u32| vec![i as u8; (i as usize * 37) % 5_000 + 1];
        let (seven, eight) = (flight.entry(7), flight.entry(8));
        let mut along = Cursor::new(Arc::clone(&seven), Arc::clone(&folder));
        let mut got = Vec::new();
        let mut mark = 0;
        for i in 0..3_000 {
            seven.keep(&message(i));
            eight.keep(b"other");
            if i % 70 == 0 {
                mark = seven.total();
            }
            if i % 100 == 0 {
                flight.shrink().await.unwrap();
                assert!(flight.memory.load(Ordering::Relaxed) <= flight.budget);
                // Read along, from file and memory, never past the mark.
                got.extend(all(&mut along, mark).await);
                assert_eq!(along.at, mark);
            }
        }
        seven.keep(&vec![1; 3 << 20]);
        flight.shrink().await.unwrap();
        seven.keep(b"last");
        got.extend(all(&mut along, u64::MAX).await);
        let again = all(&mut Cursor::new(seven, Arc::clone(&folder)), u64::MAX).await;
        assert_eq!(got, again);
        assert_eq!(got.len(), 3_002);
        for (i, m) in got[..3_000].iter().enumerate() {
            assert_eq!(m[..], message(i as u32)[..], "{i}");
        }
        assert_eq!(got[3_000].len(), 3 << 20);
        assert_eq!(got[3_001], "last");
        assert_eq!(all(&mut Cursor::new(eight, folder.clone()), u64::MAX).await.len(), 3_000);
        flight.committed(7, 10);
        flight.committed(8, 20);
        flight.confirmed(10);
        assert!(flight.get(7).is_none() && flight.get(8).is_some());
        flight.confirmed(20);
        drop(along);
        assert_eq!(flight.memory.load(Ordering::Relaxed), 0);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "a file has a name");
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_written_is_a_named_stop() {
        let flight = InFlight::new(Arc::from(Path::new("/proc/nowhere")), 10);
        flight.entry(1).keep(&[0; 100]);
        assert_eq!(flight.shrink().await.unwrap_err().code(), Some(stops::NO_SPILL));
    }

    #[test]
    fn what_waits_to_be_confirmed_is_bounded() {
        let new = || {
            let flight = InFlight::new(Arc::from(Path::new("/")), 1 << 20);
            InFlight { backlog: (1_000, 3), ..flight }
        };
        let flight = new();
        for xid in 1..=3 {
            assert!(!flight.is_full());
            flight.entry(xid).keep(&[0; 10]);
            flight.committed(xid, u64::from(xid));
        }
        assert!(flight.is_full());
        flight.confirmed(1);
        assert!(!flight.is_full());
        // One that is larger than all may be has to come to its end.
        let flight = new();
        flight.entry(4).keep(&[0; 2_000]);
        assert!(!flight.is_full());
        flight.committed(4, 4);
        assert!(flight.is_full());
    }

    #[tokio::test]
    async fn aborted_work_is_forgotten() {
        let folder: Arc<Path> = Arc::from(Path::new("/"));
        let flight = InFlight::new(Arc::clone(&folder), 1 << 20);
        let one = flight.entry(1);
        one.keep(b"a");
        one.abort(5);
        assert!(one.aborted().contains(&5));
        let mut cursor = Cursor::new(one, folder);
        flight.forget(1);
        assert!(flight.get(1).is_none());
        assert!(all(&mut cursor, u64::MAX).await.is_empty());
        assert_eq!(flight.memory.load(Ordering::Relaxed), 0);
    }
}
