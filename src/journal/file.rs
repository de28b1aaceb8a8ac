//! A journal in one file: append and sync, one writer by file lock.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read as _, Seek as _, SeekFrom},
    marker::PhantomData,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

use super::{
    Journal, JournalError, Unsynced,
    format::{self, Parsed, Wrong},
};

/// The file grows by zeros in steps of this many bytes, so that an append overwrites and its
/// sync writes no metadata.
const STEP: u64 = 64 * 1024;

/// What a journal holds, as its header says it: a name and a version, `moves/1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind(pub &'static str);

/// A journal in one file.
///
/// The lock belongs to the open file, so it dies with the process, however that dies.
#[derive(Debug)]
pub struct FileJournal<Fact> {
    path: PathBuf,
    kind: Kind,
    /// `None` after a failed append: the lock is given back, so that the guard can take over.
    file: Option<File>,
    end: u64,
    reserved: u64,
    chain: u32,
    facts: PhantomData<fn() -> Fact>,
}

impl<Fact: Serialize + DeserializeOwned> FileJournal<Fact> {
    /// Opens the journal for writing, creating it when it is missing, and returns what it says.
    /// A line that was being written when the writer died is dropped and cut off.
    ///
    /// # Errors
    ///
    /// [`JournalError::Locked`] while another process has it open for writing; damage, a foreign
    /// file, another version, or the file system.
    pub fn open(path: &Path, kind: Kind) -> Result<(Self, Vec<Fact>), JournalError> {
        Self::locked(path, kind, true)
    }

    /// The same with a journal that is there.
    ///
    /// # Errors
    ///
    /// As [`FileJournal::open`], and when it is missing.
    pub fn open_existing(path: &Path, kind: Kind) -> Result<(Self, Vec<Fact>), JournalError> {
        Self::locked(path, kind, false)
    }

    fn locked(path: &Path, kind: Kind, create: bool) -> Result<(Self, Vec<Fact>), JournalError> {
        let io = |doing| move |source| JournalError::Io { doing, path: path.to_owned(), source };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(create)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(io("opening"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(JournalError::Locked { path: path.to_owned() });
            }
            Err(TryLockError::Error(source)) => return Err(io("locking")(source)),
        }
        let bytes = read_all(&file).map_err(io("reading"))?;
        let parsed = parse(path, kind, &bytes)?;
        let facts = decode(path, &bytes, &parsed)?;
        let mut journal = Self {
            path: path.to_owned(),
            kind,
            file: Some(file),
            end: parsed.end as u64,
            reserved: bytes.len() as u64,
            chain: parsed.chain,
            facts: PhantomData,
        };
        journal.repair(&parsed)?;
        Ok((journal, facts))
    }

    /// What the journal says now, without the lock: the writer may be at work, and what it is
    /// writing at this moment is left out. `None` when there is no journal.
    ///
    /// # Errors
    ///
    /// Damage, a foreign file, another version, or the file system.
    pub fn read_only(path: &Path, kind: Kind) -> Result<Option<Vec<Fact>>, JournalError> {
        let io = |source| JournalError::Io { doing: "reading", path: path.to_owned(), source };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io(e)),
        };
        let bytes = read_all(&file).map_err(io)?;
        let parsed = parse(path, kind, &bytes)?;
        decode(path, &bytes, &parsed).map(Some)
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many bytes have been written to it, by whomever.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Cuts off what was half-written, completes header and last newline.
    fn repair(&mut self, parsed: &Parsed) -> Result<(), JournalError> {
        let fresh = parsed.end == 0;
        if parsed.torn {
            self.io("cutting off a half-written line of", |file, end| file.set_len(end))?;
            self.reserved = self.end;
        }
        if parsed.unterminated {
            self.io("completing the last line of", |file, end| file.write_all_at(b"\n", end))?;
            self.end += 1;
        }
        if fresh {
            let header = format::header(self.kind.0);
            self.io("creating", |file, _| file.write_all_at(&header, 0))?;
            self.end = header.len() as u64;
            self.chain = crc32fast::hash(&header);
        }
        self.reserved = self.reserved.max(self.end);
        // On a full disk what was reserved before may be enough.
        self.reserve_ahead(STEP / 2);
        if fresh || parsed.torn || parsed.unterminated {
            self.io("syncing", |file, _| file.sync_all())?;
        }
        if fresh {
            sync_folder(&self.path).map_err(|source| JournalError::Io {
                doing: "syncing the folder of",
                path: self.path.clone(),
                source,
            })?;
        }
        Ok(())
    }

    /// Sees to it that at least `bytes` after the end exist as zeros on the disk.
    fn ensure(&mut self, bytes: u64) -> Result<(), JournalError> {
        if self.reserved >= self.end + bytes {
            return Ok(());
        }
        let from = self.reserved;
        let to = (self.end + bytes).next_multiple_of(STEP);
        self.io("reserving space for", |file, _| fill(file, from, to))?;
        self.reserved = to;
        Ok(())
    }

    /// Writes one line; `false` when there is nothing to write.
    fn write(&mut self, facts: &[Fact]) -> Result<bool, JournalError> {
        if facts.is_empty() {
            return Ok(false);
        }
        let array = serde_json::to_vec(facts).map_err(|e| JournalError::Io {
            doing: "writing a fact to",
            path: self.path.clone(),
            source: io::Error::other(e),
        })?;
        let (line, chain) = format::line(self.chain, &array);
        self.ensure(line.len() as u64)?;
        self.io("writing", |file, end| file.write_all_at(&line, end))?;
        self.end += line.len() as u64;
        self.chain = chain;
        Ok(true)
    }

    /// Runs one operation on the file; after a failure nothing more is accepted.
    fn io<T>(
        &mut self,
        doing: &'static str,
        action: impl FnOnce(&File, u64) -> io::Result<T>,
    ) -> Result<T, JournalError> {
        let Some(file) = &self.file else {
            return Err(JournalError::Poisoned { path: self.path.clone() });
        };
        action(file, self.end).map_err(|source| {
            self.file = None;
            JournalError::Io { doing, path: self.path.clone(), source }
        })
    }
}

impl<Fact: Serialize + DeserializeOwned> Journal<Fact> for FileJournal<Fact> {
    fn append_all(&mut self, facts: &[Fact]) -> Result<(), JournalError> {
        if self.write(facts)? {
            self.io("syncing", |file, _| file.sync_data())?;
        }
        Ok(())
    }

    fn write_all(&mut self, facts: &[Fact]) -> Result<Option<Unsynced>, JournalError> {
        if !self.write(facts)? {
            return Ok(None);
        }
        // The same open file under another number: it shares the lock and the error state.
        let file = self.io("syncing", |file, _| file.try_clone())?;
        let path = self.path.clone();
        Ok(Some(Box::new(move || {
            file.sync_data().map_err(|source| JournalError::Io { doing: "syncing", path, source })
        })))
    }

    fn give_up(&mut self) {
        self.file = None;
    }

    fn replay(&self) -> Result<Vec<Fact>, JournalError> {
        Ok(Self::read_only(&self.path, self.kind)?.unwrap_or_default())
    }

    fn reserve(&mut self, bytes: u64) -> Result<(), JournalError> {
        self.ensure(bytes)
    }

    fn reserve_ahead(&mut self, bytes: u64) {
        let (from, to) = (self.reserved, (self.end + bytes).next_multiple_of(STEP));
        let Some(file) = self.file.as_ref().filter(|_| from < self.end + bytes) else { return };
        match fill(file, from, to) {
            Ok(()) => self.reserved = to,
            Err(error) => tracing::debug!(%error, "no space can be reserved for a journal"),
        }
    }
}

/// Zeros from one place to the other, on the disk.
fn fill(file: &File, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; usize::try_from(to - from).unwrap_or(usize::MAX)];
    file.write_all_at(&zeros, from)?;
    file.sync_all()
}

fn read_all(mut file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
}

fn parse(path: &Path, kind: Kind, bytes: &[u8]) -> Result<Parsed, JournalError> {
    format::parse(bytes, kind.0).map_err(|wrong| match wrong {
        Wrong::Version(found) => {
            JournalError::Version { path: path.to_owned(), found, known: format::known(kind.0) }
        }
        Wrong::Foreign(found) => {
            JournalError::Foreign { path: path.to_owned(), wanted: kind.0.to_owned(), found }
        }
        Wrong::Damage { line, offset, what, whole } => JournalError::Damaged {
            path: path.to_owned(),
            line,
            offset,
            what: what.to_owned(),
            known: known_before(bytes, kind, offset, whole),
        },
    })
}

/// What the whole lines before a damage say, for a person.
fn known_before(bytes: &[u8], kind: Kind, offset: usize, whole: usize) -> String {
    if whole == 0 {
        return "nothing is known before it".to_owned();
    }
    let last = format::parse(&bytes[..offset], kind.0)
        .ok()
        .and_then(|parsed| parsed.lines.last().cloned())
        .map(|range| String::from_utf8_lossy(&bytes[range]).into_owned())
        .unwrap_or_default();
    let last: String = last.chars().take(400).collect();
    format!("{whole} lines before it are whole, the last of them says {last}")
}

fn decode<Fact: DeserializeOwned>(
    path: &Path,
    bytes: &[u8],
    parsed: &Parsed,
) -> Result<Vec<Fact>, JournalError> {
    let mut facts = Vec::new();
    for (index, range) in parsed.lines.iter().enumerate() {
        let offset = range.start;
        let line: Vec<Fact> =
            serde_json::from_slice(&bytes[range.clone()]).map_err(|e| JournalError::Damaged {
                path: path.to_owned(),
                line: index + 2,
                offset,
                what: format!("it is whole, but says something this version does not know ({e})"),
                known: format!("{} facts before it are known", facts.len()),
            })?;
        facts.extend(line);
    }
    Ok(facts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Explain as _;

    const KIND: Kind = Kind("words/1");

    fn open(path: &Path) -> Result<(FileJournal<String>, Vec<String>), JournalError> {
        FileJournal::open(path, KIND)
    }

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn what_was_appended_is_read_again_by_the_next_writer_and_by_readers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("words.journal");
        assert_eq!(FileJournal::<String>::read_only(&path, KIND).unwrap(), None);
        let (mut journal, facts) = open(&path).unwrap();
        assert!(facts.is_empty());
        journal.append_all(&words(&["began", "line\nbreak and \0"])).unwrap();
        journal.append(&"decided".to_owned()).unwrap();
        let all = words(&["began", "line\nbreak and \0", "decided"]);
        assert_eq!(journal.replay().unwrap(), all);
        drop(journal);
        let (mut journal, facts) = open(&path).unwrap();
        assert_eq!(facts, all);
        journal.append(&"ended".to_owned()).unwrap();
        assert_eq!(FileJournal::<String>::read_only(&path, KIND).unwrap().unwrap().len(), 4);
    }

    #[test]
    fn a_second_writer_is_refused_until_the_first_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("words.journal");
        let first = open(&path).unwrap();
        let error = open(&path).unwrap_err();
        assert!(matches!(error, JournalError::Locked { .. }), "{error}");
        assert_eq!(error.code(), Some("CUT0510"));
        assert!(FileJournal::<String>::read_only(&path, KIND).is_ok());
        drop(first);
        assert!(open(&path).is_ok());
    }

    #[test]
    fn cut_at_every_byte_it_opens_goes_on_and_stays_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("words.journal");
        let (mut journal, _) = open(&path).unwrap();
        journal.append_all(&words(&["began", "paused"])).unwrap();
        journal.append(&"decided".to_owned()).unwrap();
        let written = usize::try_from(journal.end).unwrap();
        drop(journal);
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..=written {
            for keep_reserved in [false, true] {
                let mut bytes = whole.clone();
                if keep_reserved {
                    bytes[cut..].fill(0);
                } else {
                    bytes.truncate(cut);
                }
                std::fs::write(&path, &bytes).unwrap();
                let (mut journal, before) = open(&path).unwrap();
                assert!(words(&["began", "paused", "decided"]).starts_with(&before), "cut {cut}");
                assert!(before.len() != 1, "both facts of one append or none, cut {cut}");
                journal.append(&"again".to_owned()).unwrap();
                drop(journal);
                let (_, after) = open(&path).unwrap();
                assert_eq!(after.len(), before.len() + 1, "cut {cut}");
            }
        }
    }

    #[test]
    fn every_damaged_byte_is_refused_with_line_and_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("words.journal");
        let (mut journal, _) = open(&path).unwrap();
        journal.append_all(&words(&["began", "paused"])).unwrap();
        journal.append(&"decided".to_owned()).unwrap();
        let written = usize::try_from(journal.end).unwrap();
        drop(journal);
        let whole = std::fs::read(&path).unwrap();
        for at in 0..written {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x01;
            std::fs::write(&path, &bytes).unwrap();
            let error = open(&path).map(|(_, facts)| facts).unwrap_err();
            assert!(error.remedy().is_some_and(|r| !r.is_empty()), "byte {at}");
            assert!(FileJournal::<String>::read_only(&path, KIND).is_err(), "byte {at}");
            assert_eq!(std::fs::read(&path).unwrap(), bytes, "refused means untouched");
            let third = whole.iter().enumerate().filter(|(_, b)| **b == b'\n').nth(1).unwrap().0;
            if at > third {
                assert!(matches!(error, JournalError::Damaged { line: 3, .. }), "{at}: {error}");
                assert!(error.to_string().contains("paused"), "{error}");
                assert_eq!(error.code(), Some("CUT0511"));
            }
        }
    }

    #[test]
    fn another_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("words.journal");
        drop(FileJournal::<String>::open(&path, Kind("words/2")).unwrap());
        let error = open(&path).unwrap_err();
        assert_eq!(error.code(), Some("CUT0512"), "{error}");
        std::fs::write(&path, "something else\n").unwrap();
        assert_eq!(open(&path).unwrap_err().code(), Some("CUT0513"));
    }

    #[test]
    fn facts_of_a_newer_program_are_refused_not_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("words.journal");
        let (mut journal, _) = FileJournal::<u32>::open(&path, KIND).unwrap();
        journal.append(&7).unwrap();
        drop(journal);
        assert_eq!(open(&path).unwrap_err().code(), Some("CUT0511"));
    }

    #[test]
    fn it_grows_in_steps_and_ahead_of_need() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("words.journal");
        let (mut journal, _) = open(&path).unwrap();
        let size = || std::fs::metadata(&path).unwrap().len();
        assert_eq!(size(), STEP);
        journal.reserve(STEP).unwrap();
        assert_eq!(size(), 2 * STEP);
        for _ in 0..10 {
            journal.append(&"x".repeat(4000)).unwrap();
        }
        assert_eq!(size(), 2 * STEP, "appends within the reserve do not grow the file");
        drop(journal);
        assert_eq!(open(&path).unwrap().1.len(), 10);
    }

    #[test]
    fn what_is_written_is_read_before_it_is_synced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("words.journal");
        let (mut journal, _) = open(&path).unwrap();
        assert!(journal.write_all(&[]).unwrap().is_none());
        let unsynced = journal.write_all(&words(&["began"])).unwrap().unwrap();
        let read = FileJournal::<String>::read_only(&path, KIND).unwrap().unwrap();
        assert_eq!(read, words(&["began"]));
        unsynced().unwrap();
        journal.append(&"ended".to_owned()).unwrap();
        assert_eq!(journal.replay().unwrap(), words(&["began", "ended"]));
        journal.give_up();
        assert!(journal.append(&"more".to_owned()).is_err());
        assert_eq!(open(&path).unwrap().1.len(), 2, "the lock is free");
    }

    #[test]
    fn after_a_failed_append_nothing_is_accepted_and_the_lock_is_free() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("words.journal");
        let (mut journal, _) = open(&path).unwrap();
        journal.append(&"began".to_owned()).unwrap();
        journal.io("failing", |_, _| Err::<(), _>(io::Error::other("disk"))).unwrap_err();
        let error = journal.append(&"more".to_owned()).unwrap_err();
        assert!(matches!(error, JournalError::Poisoned { .. }));
        assert_eq!(open(&path).unwrap().1, words(&["began"]), "the guard can take over");
    }
}
