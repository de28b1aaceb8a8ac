//! The contract of readers passes on a sound reader and fails on unsound ones, and an answer that
//! is missing or too many is a named failure wherever it is asked for.

use async_trait::async_trait;
use cutover_core::{
    model::{
        digest::{Digest, RowDigest, RowKey},
        schema::{RowIdentity, Table, TableName},
    },
    port::{
        Result,
        copy::{CopyFormat, Opened, Range, Snapshot},
        reader::{Lookup, Part, RowReader},
    },
};
use cutover_testkit::contract::reader;

/// What is wrong with answers to several questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Defect {
    None,
    /// The last one is forgotten.
    OneTooFew,
    /// There is one more.
    OneTooMany,
    /// Nothing comes, not even for a single question.
    Nothing,
    /// They come in another order.
    Shifted,
    /// A bucket of the last part is forgotten.
    ABucketTooFew,
}

/// Table number `n` has `n` rows.
struct Memory(Defect);

impl Memory {
    fn rows(table: &Table) -> Vec<RowDigest> {
        let rows = 0..table.estimated_rows.unwrap_or(0);
        let row = |n: u64| RowDigest { key: RowKey(vec![n.to_string()]), hash: n as i64 * 37 };
        rows.map(row).collect()
    }

    fn spoilt<T: Clone>(&self, mut answers: Vec<T>) -> Vec<T> {
        match self.0 {
            Defect::None | Defect::ABucketTooFew => {}
            Defect::OneTooFew => drop(answers.pop()),
            Defect::OneTooMany => answers.extend(answers.last().cloned()),
            Defect::Nothing => answers.clear(),
            Defect::Shifted if answers.is_empty() => {}
            Defect::Shifted => answers.rotate_left(1),
        }
        answers
    }
}

#[async_trait]
impl RowReader for Memory {
    async fn digests_of(&self, parts: &[Part<'_>]) -> Result<Vec<Vec<Digest>>> {
        let of = |part: &Part<'_>| {
            let mut digests = vec![Digest::default(); part.buckets as usize];
            for row in Self::rows(part.table) {
                digests[row.hash as usize % part.buckets as usize]
                    .add(Digest { rows: 1, sum: row.hash.into() });
            }
            digests
        };
        let mut all: Vec<_> = parts.iter().map(of).collect();
        if let (Defect::ABucketTooFew, Some(last)) = (self.0, all.last_mut()) {
            last.pop();
        }
        Ok(self.spoilt(all))
    }

    async fn bucket_rows(&self, table: &Table, _: u32, _: &[u32]) -> Result<Vec<RowDigest>> {
        Ok(Self::rows(table))
    }

    async fn rows_of(&self, wanted: &[Lookup<'_>]) -> Result<Vec<Vec<RowDigest>>> {
        let of = |lookup: &Lookup<'_>| {
            let rows = Self::rows(lookup.table).into_iter();
            rows.filter(|row| lookup.keys.contains(&row.key)).collect()
        };
        Ok(self.spoilt(wanted.iter().map(of).collect()))
    }
}

#[async_trait]
impl Snapshot for Memory {
    fn visible(&self) -> &str {
        ""
    }

    async fn ranges_of(&self, tables: &[&Table], _: u64) -> Result<Vec<Vec<Range>>> {
        let range = |n: u64| Range { condition: format!("number {n}"), bytes: n };
        let of = |table: &&Table| (0..table.estimated_rows.unwrap_or(0)).map(range).collect();
        Ok(self.spoilt(tables.iter().map(of).collect()))
    }

    async fn keys_range(&self, _: &Table, _: &[RowKey]) -> Result<Range> {
        unreachable!("nobody asks")
    }

    async fn read(&self, _: &Table, _: &Range, _: CopyFormat) -> Result<Opened> {
        unreachable!("nobody asks")
    }
}

fn tables() -> Vec<Table> {
    (0..7)
        .map(|n| Table {
            name: TableName::new("app", format!("t{n}")),
            columns: Default::default(),
            identity: RowIdentity::Key(vec!["id".into()]),
            primary_key: Vec::new(),
            root: None,
            estimated_rows: Some(n),
            bytes: 0,
        })
        .collect()
}

#[tokio::test]
async fn a_sound_reader_passes() {
    reader::check(&Memory(Defect::None), &tables()).await;
}

#[tokio::test]
async fn unsound_readers_do_not() {
    for defect in [
        Defect::OneTooFew,
        Defect::OneTooMany,
        Defect::Nothing,
        Defect::Shifted,
        Defect::ABucketTooFew,
    ] {
        for part in ["ranges", "digests", "rows"] {
            if defect == Defect::ABucketTooFew && part != "digests" {
                continue;
            }
            let test = tokio::spawn(async move {
                let (reader, tables) = (Memory(defect), tables());
                match part {
                    "ranges" => reader::ranges(&reader, &tables).await,
                    "digests" => reader::digests(&reader, &tables).await,
                    _ => reader::rows_by_key(&reader, &tables).await,
                }
            });
            assert!(test.await.is_err(), "{defect:?} passes {part:?}");
        }
    }
}

/// Whoever asks, for one table or for many, is told by name.
#[tokio::test]
async fn a_missing_answer_is_a_named_failure() {
    let all = tables();
    let named = |what: &str, code: Option<&str>| assert_eq!(code, Some("CUT0308"), "{what}");
    let range = Range { condition: String::new(), bytes: 0 };
    let part = |table| Part { table, range: &range, buckets: 4 };
    let keys = [RowKey(vec!["0".into()])];
    for defect in [Defect::OneTooFew, Defect::OneTooMany, Defect::Nothing] {
        let memory = Memory(defect);
        for count in [1, 2, 7] {
            let some: Vec<&Table> = all.iter().take(count).collect();
            let parts: Vec<Part<'_>> = some.iter().map(|table| part(table)).collect();
            let wanted: Vec<Lookup<'_>> =
                some.iter().map(|table| Lookup { table, keys: &keys }).collect();
            named("ranges", memory.split_all(&some, 1).await.unwrap_err().code());
            named("digests", memory.digests(&parts).await.unwrap_err().code());
            named("rows", memory.lookup(&wanted).await.unwrap_err().code());
        }
        named("ranges of one", memory.split(&all[2], 1).await.unwrap_err().code());
        let digests = memory.bucket_digests(&all[2], &range, 4).await;
        named("digests of one", digests.unwrap_err().code());
        named("rows of one", memory.key_digests(&all[2], &keys).await.unwrap_err().code());
    }
    let memory = Memory(Defect::ABucketTooFew);
    let error = memory.digests(&[part(&all[1]), part(&all[2])]).await.unwrap_err();
    named("buckets", error.code());
    assert!(error.to_string().contains("app.t2: 4 answers were expected and 3 came"), "{error}");
    let error = Memory(Defect::OneTooFew).split_all(&all.iter().collect::<Vec<_>>(), 1).await;
    let told = error.unwrap_err().to_string();
    assert!(told.contains("of app.t0: 7 answers were expected and 6 came"), "{told}");
}
