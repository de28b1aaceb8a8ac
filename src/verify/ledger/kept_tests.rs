//! What is in the file at any moment is never less than what has to be compared.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use cutover_core::model::{
    digest::RowKey,
    event::{Change, Relation},
    position::Position,
    run::RunId,
    schema::TableName,
    side::Side,
};
use proptest::prelude::*;

use super::{
    Behind, Ledger, Pass,
    tests::{id, keyless, mark, pair, setup},
};
use crate::verify::saved::{self, Header, Saved, SavedPair};

fn at(lsn: u64) -> Position {
    Position::Postgres { timeline: 1, lsn }
}

fn run() -> RunId {
    RunId::new("shop").unwrap()
}

fn header(relation: &Relation) -> Header {
    let name = relation.name.clone();
    Header {
        run: run(),
        position: at(1),
        compared: 7,
        pairs: vec![SavedPair {
            name,
            shape: Some(u64::MAX),
            rows: 3,
            files: Some([vec![1], vec![2]]),
        }],
    }
}

/// A ledger of one table that was compared as a whole, with a file.
fn kept(path: &Path, budget: usize) -> (Ledger, Relation) {
    let (ledger, relation) = setup(budget);
    for side in [Side::Blue, Side::Green] {
        assert_eq!(ledger.begins(side, Some(&at(1)), Some(&at(1))), Ok(Some(at(1))));
    }
    ledger.restart(&[0]).finished();
    assert!(save(&ledger, path, &relation, &BTreeSet::new()));
    (ledger, relation)
}

fn save(ledger: &Ledger, path: &Path, relation: &Relation, different: &BTreeSet<u32>) -> bool {
    let keys: Vec<RowKey> = different.iter().map(|n| RowKey(vec![n.to_string()])).collect();
    let different = keys.iter().map(|key| (0, key));
    ledger.save(path, &header(relation), different, std::iter::empty()).unwrap()
}

fn read(path: &Path) -> Saved {
    saved::read(path, &run()).unwrap().unwrap()
}

/// What the next process has to compare: all, or these rows.
fn left(path: &Path) -> Option<BTreeSet<u32>> {
    let saved = read(path);
    let (ledger, _) = setup(1 << 20);
    ledger.go_on(saved, &[Some(0)]);
    if !ledger.whole().is_empty() {
        return None;
    }
    let taken = ledger.take_all().compared();
    Some(taken.into_iter().flat_map(|(_, keys)| keys).map(|k| k.0[0].parse().unwrap()).collect())
}

fn insert(n: u32) -> Change {
    Change::Insert { new: id(n.to_string()) }
}

#[derive(Debug, Clone)]
enum Step {
    Row(u32),
    Applied,
    Early(u32, u32),
    Ended(u32, bool),
    Emptied,
    /// So many rows are compared; this one differs, if it is among them.
    Compare(usize, u32),
    GivenUp(usize),
    PassBegins,
    PassEnds(bool),
    Save,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..12_u32).prop_map(Step::Row),
        4 => Just(Step::Applied),
        3 => (0..2_u32, 0..12_u32).prop_map(|(t, n)| Step::Early(t, n)),
        2 => (0..2_u32, any::<bool>()).prop_map(|(t, yes)| Step::Ended(t, yes)),
        1 => Just(Step::Emptied),
        4 => (1..6_usize, 0..24_u32).prop_map(|(n, d)| Step::Compare(n, d)),
        1 => (1..6_usize).prop_map(Step::GivenUp),
        2 => Just(Step::PassBegins),
        3 => any::<bool>().prop_map(Step::PassEnds),
        2 => Just(Step::Save),
    ]
}

/// What really has to be compared.
#[derive(Debug, Default)]
struct Truth {
    /// Rows with the time of their last change.
    rows: BTreeMap<u32, u64>,
    emptied: Option<u64>,
    early: BTreeMap<u32, BTreeSet<u32>>,
    different: BTreeSet<u32>,
    now: u64,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn nothing_is_lost_when_the_process_dies(
        steps in prop::collection::vec(step(), 1..60), small in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(saved::FILE);
        let (ledger, relation) = kept(&path, if small { 700 } else { 1 << 20 });
        let mut truth = Truth::default();
        let mut passes: Vec<(Pass<'_>, u64)> = Vec::new();
        let mut lsn = 1;
        for step in steps {
            truth.now += 1;
            let now = truth.now;
            match step {
                Step::Row(n) => {
                    ledger.row(Side::Blue, &relation, &insert(n), false);
                    truth.rows.insert(n, now);
                }
                Step::Applied => ledger.applied(),
                Step::Early(t, n) => {
                    ledger.early(Side::Blue, t, &relation, &insert(n));
                    truth.early.entry(t).or_default().insert(n);
                }
                Step::Ended(t, committed) => {
                    ledger.ended(Side::Blue, t, committed);
                    let rows = truth.early.remove(&t).unwrap_or_default();
                    truth.rows.extend(rows.into_iter().filter(|_| committed).map(|n| (n, now)));
                }
                Step::Emptied => {
                    ledger.truncated(Side::Blue, &relation);
                    truth.emptied = Some(now);
                }
                Step::Compare(n, differs) => {
                    let _until_noted = ledger.comparing();
                    for key in ledger.take(n).compared().into_iter().flat_map(|(_, keys)| keys) {
                        let n = key.0[0].parse().unwrap();
                        truth.rows.remove(&n);
                        truth.different.remove(&n);
                        if n == differs {
                            truth.different.insert(n);
                        }
                    }
                    prop_assert!(!save(&ledger, &path, &relation, &truth.different));
                }
                Step::GivenUp(n) => drop(ledger.take(n)),
                Step::PassBegins => {
                    // The stream stands at its position.
                    ledger.applied();
                    passes.push((ledger.restart(&[0]), now));
                }
                Step::PassEnds(finished) => {
                    let Some((pass, began)) = passes.pop() else { continue };
                    if finished {
                        // Differences that it finds are noted first.
                        pass.finished();
                        truth.rows.retain(|_, at| *at > began);
                        truth.emptied = truth.emptied.filter(|at| *at > began);
                        truth.different.clear();
                        prop_assert!(save(&ledger, &path, &relation, &truth.different));
                    }
                }
                Step::Save => {
                    prop_assert!(save(&ledger, &path, &relation, &truth.different));
                }
            }
            // What the other side stores is what was told so far.
            lsn += 1;
            ledger.passed(Side::Blue, &at(lsn));
            prop_assert_eq!(&read(&path).passed, &[Some(at(lsn)), Some(at(1))]);
            if let Some(left) = left(&path) {
                prop_assert!(truth.emptied.is_none());
                let needed: BTreeSet<u32> =
                    truth.rows.keys().chain(&truth.different).copied().collect();
                prop_assert!(needed.is_subset(&left), "{:?} of {:?}", left, needed);
            }
        }
        drop(passes);
    }
}

#[test]
fn what_was_compared_is_not_compared_again_after_the_file_was_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(saved::FILE);
    let (ledger, relation) = kept(&path, 1 << 20);
    (0..5).for_each(|n| ledger.changed(Side::Blue, &relation, &insert(n)));
    ledger.passed(Side::Blue, &at(9));
    assert_eq!(ledger.take(3).compared()[0].1.len(), 3);
    assert_eq!(left(&path).unwrap().len(), 5);
    assert!(save(&ledger, &path, &relation, &BTreeSet::from([77])));
    assert_eq!(left(&path).unwrap().len(), 3);
    // It is no other run's.
    assert!(saved::read(&path, &RunId::new("other").unwrap()).unwrap().is_none());
    saved::remove(&path).unwrap();
    assert!(saved::read(&path, &run()).unwrap().is_none());
}

/// The other side holds more than the file knows of: it was cut off, or is another process's.
#[test]
fn a_file_that_is_behind_proves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(saved::FILE);
    let later = |lsn| Position::Postgres { timeline: 2, lsn };
    let (ledger, _) = kept(&path, 1 << 20);
    ledger.passed(Side::Blue, &at(10));
    let whole = std::fs::read(&path).unwrap();
    ledger.passed(Side::Blue, &at(20));
    drop(ledger);
    for (cut, held, named, proven) in [
        (false, at(20), at(20), true),
        (false, at(15), at(15), true),
        (false, at(21), at(21), false),
        (true, at(20), at(20), false),
        (true, at(10), at(10), true),
        // A server that took over calls the place by another name, or has another history.
        (false, at(20), later(20), true),
        (false, later(15), later(15), false),
    ] {
        if cut {
            std::fs::write(&path, &whole).unwrap();
        }
        let (ledger, _) = setup(1 << 20);
        let saved = if cut {
            read(&path)
        } else {
            Saved { passed: [Some(at(20)), Some(at(1))], ..read(&path) }
        };
        ledger.go_on(saved, &[Some(0)]);
        let case = format!("{cut} {held} {named}");
        // It stays where it is unless it has another name, or was not reached.
        let stays = proven && held == named && !cut;
        let passed = Some(if stays { at(20) } else { named.clone() });
        let said = ledger.begins(Side::Blue, Some(&held), Some(&named));
        assert_eq!(said, if proven { Ok(passed.clone()) } else { Err(Behind) }, "{case}");
        assert_eq!(ledger.whole().is_empty(), proven, "{case}");
        assert_eq!(ledger.lock().passed[0], passed, "{case}");
    }
    let (ledger, _) = setup(1 << 20);
    ledger.go_on(read(&path), &[None]);
    assert_eq!(ledger.whole(), [0], "a pair that nothing is known of");
}

#[test]
fn a_pair_that_is_done_is_proven_whatever_becomes_of_the_pass() {
    let (_, relation) = setup(0);
    let names = ["a", "b"].map(|name| TableName::new("public", name));
    let ledger = Ledger::new(&names.clone().map(pair), 1 << 20);
    let change = |i: usize, n: u32| {
        let relation = Relation { name: names[i].clone(), ..relation.clone() };
        ledger.changed(Side::Blue, &relation, &insert(n));
    };
    ledger.restart(&[0, 1]).finished();
    (0..2).for_each(|i| change(i, 1));
    let pass = ledger.restart(&[0, 1]);
    (0..2).for_each(|i| change(i, 2));
    pass.finish(0, None);
    pass.finish(0, None);
    assert!(ledger.whole() == [1] && ledger.wants_saving());
    drop(pass);
    assert!(ledger.whole().is_empty());
    let waits: Vec<(usize, usize)> =
        ledger.take_all().compared().into_iter().map(|(i, keys)| (i, keys.len())).collect();
    assert_eq!(waits, [(0, 1), (1, 2)]);
}

/// A file that cannot be begun anew at this moment knows what was found all the same.
#[test]
fn what_a_full_pass_found_is_not_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(saved::FILE);
    let (ledger, relation) = kept(&path, 1 << 20);
    assert!(!ledger.wants_saving());
    let comparing = ledger.comparing();
    ledger.found(0, Some(&RowKey(vec!["5".into()])));
    assert!(!save(&ledger, &path, &relation, &BTreeSet::from([5])) && ledger.wants_saving());
    assert_eq!(left(&path), Some(BTreeSet::from([5])));
    ledger.found(0, None);
    assert_eq!(left(&path), None);
    drop(comparing);
    assert!(save(&ledger, &path, &relation, &BTreeSet::from([5])) && !ledger.wants_saving());
    assert_eq!(left(&path), Some(BTreeSet::from([5])));
}

/// Rows that came into a table without a key are counted on, from exactly where the stream goes on.
#[test]
fn what_a_table_gained_is_known_to_the_next_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(saved::FILE);
    let begun = || {
        let (ledger, relation) = keyless();
        for side in [Side::Blue, Side::Green] {
            assert!(ledger.begins(side, Some(&at(10)), Some(&at(10))).is_ok());
        }
        ledger.restart(&[0]).finished_with(&mark());
        (ledger, relation)
    };
    let gains = |ledger: &Ledger, relation: &Relation, rows: std::ops::Range<u32>| {
        rows.for_each(|n| ledger.changed(Side::Blue, relation, &insert(n)));
    };
    let rows = |ledger: &Ledger| ledger.grown(0).map(|grown| grown.growth.rows);
    // The next process, where the other side holds all up to there.
    let next = |held: u64| {
        let (ledger, relation) = keyless();
        ledger.go_on(read(&path), &[Some(0)]);
        assert_eq!(rows(&ledger), None, "nobody knows yet");
        for (side, held) in [(Side::Green, 10), (Side::Blue, held)] {
            assert!(ledger.begins(side, Some(&at(held)), Some(&at(held))).is_ok());
        }
        (ledger, relation)
    };
    let (ledger, relation) = begun();
    gains(&ledger, &relation, 0..3);
    ledger.passed(Side::Blue, &at(20));
    assert!(save(&ledger, &path, &relation, &BTreeSet::new()));
    for lsn in [30, 40] {
        gains(&ledger, &relation, 0..2);
        ledger.passed(Side::Blue, &at(lsn));
    }
    // Told, and before no position yet.
    gains(&ledger, &relation, 0..5);
    ledger.passed(Side::Green, &at(10));
    assert_eq!(rows(&ledger), Some(12));
    for (held, came) in [(40, Some(7)), (30, Some(5)), (20, Some(3)), (15, None)] {
        let (ledger, relation) = next(held);
        assert_eq!((rows(&ledger), ledger.whole()), (came, vec![0]), "{held}");
        gains(&ledger, &relation, 0..1);
        assert_eq!(rows(&ledger), came.map(|n| n + 1));
    }
    // What is told again from there is counted from there, in the process after that as well.
    let (ledger, relation) = next(30);
    assert!(save(&ledger, &path, &relation, &BTreeSet::new()));
    assert_eq!((rows(&next(30).0), rows(&next(20).0)), (Some(5), None));
    gains(&ledger, &relation, 0..2);
    ledger.passed(Side::Blue, &at(40));
    assert_eq!(rows(&next(40).0), Some(7));
    // In the middle of a transaction nobody knows what was counted.
    gains(&ledger, &relation, 0..1);
    assert!(save(&ledger, &path, &relation, &BTreeSet::new()));
    assert_eq!(rows(&next(40).0), None);
    // Nor where more happened than rows that came.
    for happens in [
        |l: &Ledger, r: &Relation| l.row(Side::Green, r, &insert(1), true),
        |l: &Ledger, r: &Relation| l.truncated(Side::Blue, r),
        |l: &Ledger, _: &Relation| l.rewritten(0),
    ] {
        let (ledger, relation) = begun();
        assert!(save(&ledger, &path, &relation, &BTreeSet::new()));
        assert_eq!(rows(&next(10).0), Some(0));
        happens(&ledger, &relation);
        ledger.passed(Side::Blue, &at(20));
        assert_eq!(rows(&next(20).0), None);
    }
}

/// However much of it is left, there is a file that says how far it goes, or none.
#[test]
fn a_file_that_is_cut_off_anywhere_says_how_far_it_goes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(saved::FILE);
    let (ledger, relation) = kept(&path, 1 << 20);
    for n in 2..6 {
        ledger.changed(Side::Blue, &relation, &insert(n));
        ledger.passed(Side::Blue, &at(n.into()));
    }
    let whole = std::fs::read(&path).unwrap();
    let mut ends = BTreeSet::new();
    for cut in 0..=whole.len() {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let Some(saved) = saved::read(&path, &run()).unwrap() else { continue };
        let [Some(Position::Postgres { lsn, .. }), Some(_)] = saved.passed else { panic!() };
        ends.insert(lsn);
        let known: BTreeSet<u32> = (2..6).filter(|n| u64::from(*n) <= lsn).collect();
        assert_eq!(left(&path), Some(known), "{cut}");
    }
    assert_eq!(ends, (1..6).collect());
}

/// A full disk takes the file away, and nothing else.
#[test]
fn without_a_place_for_the_file_there_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gone").join(saved::FILE);
    let (ledger, relation) = setup(1 << 20);
    let saved = |path: &Path| ledger.save(path, &header(&relation), [].into_iter(), [].into_iter());
    assert!(!saved(&path).unwrap(), "nobody knows yet where the streams are");
    assert!(!ledger.has_begun());
    for side in [Side::Blue, Side::Green] {
        assert!(ledger.begins(side, Some(&at(1)), Some(&at(1))).is_ok());
    }
    assert!(saved(&path).is_err() && ledger.wants_saving() && ledger.has_begun());
    ledger.changed(Side::Blue, &relation, &insert(1));
    ledger.passed(Side::Blue, &at(3));
    std::fs::create_dir(folder.path().join("gone")).unwrap();
    assert!(saved(&path).unwrap() && !ledger.wants_saving());
}
