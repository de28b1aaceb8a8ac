//! Which tables of one side do not hold the rows of the other in full. Pure.
//!
//! A target holds the rows of its sources when they were copied, or came into being empty in the
//! stream, and were followed without a break since. Whoever is not known to be so is copied again:
//! that is never wrong, since the stream leaves out what the copy contains.

use std::collections::{BTreeMap, HashMap, HashSet};

use cutover_core::{
    model::{
        position::Position,
        ranges::KeyRanges,
        schema::{Table, TableName},
    },
    port::{copy::Keyed, sink::Route, source::Since},
};

use super::fact::{Carried, Views};
use crate::copy::Job;

/// Tables, each once, and since when they are followed. Most targets have one, so it is no map.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources(Vec<(TableName, String)>);

impl Sources {
    fn place(&self, table: &TableName) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| known.cmp(table))
    }

    fn since(&self, table: &TableName) -> Option<&String> {
        self.place(table).ok().map(|at| &self.0[at].1)
    }

    /// Puts it in the place of what was known of the table.
    pub fn insert(&mut self, table: TableName, since: String) {
        match self.place(&table) {
            Ok(at) => self.0[at].1 = since,
            Err(at) => self.0.insert(at, (table, since)),
        }
    }
}

impl FromIterator<(TableName, String)> for Sources {
    fn from_iter<T: IntoIterator<Item = (TableName, String)>>(all: T) -> Self {
        let sorted: BTreeMap<TableName, String> = all.into_iter().collect();
        Self(sorted.into_iter().collect())
    }
}

/// What a target holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// Which transactions its copy contains; `None` without a copy.
    pub snapshot: Option<String>,
    /// What ranges of it contain instead.
    pub views: Option<Views>,
    /// Its sources, and since when they are followed; `None`: those that it had when an earlier
    /// version copied it.
    pub sources: Option<Sources>,
    /// It was written by a copy while its own side was followed already.
    pub late: bool,
}

impl Held {
    /// Not what it should hold.
    #[must_use]
    pub fn outdated() -> Self {
        Self { sources: Some(Sources::default()), ..Self::default() }
    }

    fn is_outdated(&self) -> bool {
        self.sources.as_ref().is_some_and(|sources| sources.0.is_empty())
    }
}

/// A target that is copied in ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// Its source.
    pub source: Carried,
    /// The ranges.
    pub ranges: KeyRanges,
    /// How the source was defined.
    pub definition: String,
}

impl Cut {
    /// Whether what was copied of it is part of what the job is to copy now.
    fn is_of(&self, job: &Job, now: &Keyed, since: &Since) -> bool {
        job.sources.len() == 1
            && since.get(&self.source.table) == Some(&self.source.since)
            && job.sources[0].name == self.source.table
            && (&now.column, &now.definition) == (&self.ranges.column, &self.definition)
    }
}

/// What one side holds of the other one's rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Copies {
    /// Finished targets.
    pub targets: HashMap<TableName, Held>,
    /// How often each target was copied.
    pub copied: HashMap<TableName, u32>,
    /// Targets that are being copied in ranges.
    pub cut: HashMap<TableName, Cut>,
    /// A position of the sources' side after the snapshot that the last copy was begun with.
    pub began: Option<Position>,
    /// A position of the sources' side after the last snapshot.
    pub ended: Option<Position>,
    /// A position of the targets' side behind all that the last copy wrote there.
    pub written: Option<Position>,
    /// Something was copied since these positions were taken.
    pub unsettled: bool,
}

impl Copies {
    /// `None` where all rows are as of one snapshot; else the targets whose own rows are not, with
    /// the column whose ranges were copied.
    #[must_use]
    pub fn torn(&self) -> Option<BTreeMap<TableName, String>> {
        let mut views = self.targets.values().filter_map(|held| held.snapshot.as_ref());
        let first = views.next();
        let column = |held: &Held| held.views.as_ref().map(|views| views.ranges.column.clone());
        let torn: BTreeMap<TableName, String> = self
            .targets
            .iter()
            .filter_map(|(table, held)| Some((table.clone(), column(held)?)))
            .collect();
        (!torn.is_empty() || !views.all(|view| Some(view) == first)).then_some(torn)
    }

    /// How a target was cut when a copy of it was begun that can go on now.
    #[must_use]
    pub fn goes_on(&self, job: &Job, now: &Keyed, since: &Since) -> Option<&Cut> {
        self.cut.get(&job.target.name).filter(|cut| cut.is_of(job, now, since))
    }

    /// Whether these sources, and no others, are what the target holds.
    fn hold(&self, job: &Job, since: &Since) -> bool {
        let Some(held) = self.targets.get(&job.target.name) else { return false };
        let Some(sources) = &held.sources else { return true };
        sources.0.len() == job.sources.len()
            && job
                .sources
                .iter()
                .all(|s| since.get(&s.name).is_some_and(|now| sources.since(&s.name) == Some(now)))
    }

    /// Whether what a table is carried with was carried when something was copied already: whoever
    /// wrote before it was has ended since.
    #[must_use]
    pub fn knows_entry(&self, since: &str) -> bool {
        let entry = |since: &str| since.split(':').next().map(ToOwned::to_owned);
        self.sinces().any(|known| entry(known) == entry(since))
    }

    fn sinces(&self) -> impl Iterator<Item = &String> {
        let sources = self.targets.values().filter_map(|held| held.sources.as_ref());
        sources.flat_map(|sources| sources.0.iter().map(|(_, since)| since))
    }

    /// Whether a target is known to have this source.
    #[must_use]
    pub fn has(&self, target: &TableName, source: &TableName) -> bool {
        self.targets.get(target).is_some_and(|held| {
            held.sources.as_ref().is_none_or(|sources| sources.since(source).is_some())
        })
    }

    /// Whether a table is followed under this name or was under another one.
    #[must_use]
    pub fn knows(&self, since: &str) -> bool {
        self.sinces().any(|known| known == since)
    }

    /// Sources that are partitions while their counterparts are none yet, and never were.
    #[must_use]
    pub fn waiting(&self, routes: &[Route], sources: &[Table]) -> HashSet<TableName> {
        let roots: HashMap<&TableName, &Option<TableName>> =
            sources.iter().map(|t| (&t.name, &t.root)).collect();
        routes
            .iter()
            .filter(|r| r.source == r.target.name && !self.targets.contains_key(&r.source))
            .filter(|r| {
                roots.get(&r.source).is_some_and(|root| root.is_some() && **root != r.target.root)
            })
            .map(|r| r.source.clone())
            .collect()
    }

    /// Sources that are partitions without a counterpart on a side that is partitioned alike: what
    /// takes their rows does not exist yet. Where partitions go to the table of their root's name
    /// from the beginning, that side is partitioned in another way, or not at all.
    #[must_use]
    pub fn strays(
        &self,
        routes: &[Route],
        sources: &[Table],
        targets: &[Table],
    ) -> HashSet<TableName> {
        let tables: HashSet<&TableName> = targets.iter().map(|t| &t.name).collect();
        let roots: HashMap<&TableName, Option<&TableName>> =
            sources.iter().map(|t| (&t.name, t.root.as_ref())).collect();
        routes
            .iter()
            .filter(|r| roots.get(&r.source).copied().flatten() == Some(&r.target.name))
            .map(|r| (&r.source, &r.target.name))
            .filter(|(_, root)| !tables.contains(root) && !self.targets.contains_key(*root))
            .map(|(source, _)| source.clone())
            .collect()
    }
}

/// The source's own number of a table, as the text says since when it is carried.
#[must_use]
pub fn number(since: &str) -> Option<u32> {
    since.split(':').nth(1)?.parse().ok()
}

/// Jobs to be done: those whose targets do not hold what they should. Where a target is the root of
/// others, emptying it empties them, so that all of them belong together.
#[must_use]
pub fn owed(jobs: Vec<Job>, copies: &Copies, since: &Since) -> Vec<Job> {
    let group = |job: &Job| job.target.root.clone().unwrap_or_else(|| job.target.name.clone());
    let mut groups: BTreeMap<TableName, Vec<Job>> = BTreeMap::new();
    for job in jobs {
        groups.entry(group(&job)).or_default().push(job);
    }
    let mut owed = Vec::new();
    for (root, jobs) in groups {
        let now = jobs.iter().any(|job| job.target.name == root);
        let whole = now || copies.targets.get(&root).is_some_and(|held| !held.is_outdated());
        let missing = |job: &Job| !copies.hold(job, since);
        if whole && (!now || jobs.iter().any(missing)) {
            owed.extend(jobs);
        } else if !whole {
            owed.extend(jobs.into_iter().filter(missing));
        }
    }
    owed
}

#[cfg(test)]
mod tests {
    use cutover_core::model::schema::RowIdentity;

    use super::*;

    fn name(n: &str) -> TableName {
        TableName::new("s", n)
    }

    fn table(n: &str, root: Option<&str>) -> Table {
        Table {
            name: name(n),
            columns: Default::default(),
            identity: RowIdentity::Nothing,
            primary_key: Vec::new(),
            root: root.map(name),
            estimated_rows: None,
            bytes: 0,
        }
    }

    fn job(target: Table, sources: &[&str]) -> Job {
        Job { target, sources: sources.iter().map(|s| table(s, None)).collect() }
    }

    fn held(sources: &[(&str, &str)]) -> Held {
        let sources = sources.iter().map(|(s, since)| (name(s), (*since).to_owned())).collect();
        Held { snapshot: Some("1:1:".into()), sources: Some(sources), ..Held::default() }
    }

    fn since(list: &[(&str, &str)]) -> Since {
        list.iter().map(|(s, since)| (name(s), (*since).to_owned())).collect()
    }

    fn names(jobs: &[Job]) -> Vec<&str> {
        jobs.iter().map(|j| j.target.name.name.as_str()).collect()
    }

    #[test]
    fn a_table_is_owed_once_it_was_not_followed_for_a_while() {
        let mut copies = Copies::default();
        let jobs = || vec![job(table("t", None), &["t"]), job(table("p1", Some("p")), &["p1"])];
        let now = since(&[("t", "1"), ("p1", "2")]);
        assert_eq!(names(&owed(jobs(), &copies, &now)), ["p1", "t"], "nothing is there");
        copies.targets.insert(name("t"), held(&[("t", "1")]));
        copies.targets.insert(name("p1"), held(&[("p1", "2")]));
        assert!(owed(jobs(), &copies, &now).is_empty());
        let came_back = since(&[("t", "1"), ("p1", "3")]);
        assert_eq!(names(&owed(jobs(), &copies, &came_back)), ["p1"]);
        assert_eq!(names(&owed(jobs(), &copies, &since(&[("p1", "2")]))), ["t"], "not carried");
        // Of an earlier version's journal.
        copies.targets.insert(name("p1"), Held { sources: None, ..Held::default() });
        assert!(owed(jobs(), &copies, &came_back).is_empty());
    }

    #[test]
    fn a_copy_goes_on_only_where_it_is_the_same_table() {
        let cut = Cut {
            source: Carried { table: name("t"), since: "1:7".into() },
            ranges: KeyRanges { column: "id".into(), bounds: vec![5] },
            definition: "p 2 1:700".into(),
        };
        let copies = Copies { cut: HashMap::from([(name("t"), cut.clone())]), ..Copies::default() };
        let keyed = |column: &str, definition: &str| Keyed {
            column: column.into(),
            definition: definition.into(),
            alone: true,
        };
        let (same, now) = (keyed("id", "p 2 1:700"), since(&[("t", "1:7"), ("u", "1:7")]));
        let whole = job(table("t", None), &["t"]);
        assert_eq!(copies.goes_on(&whole, &same, &now), Some(&cut));
        assert_eq!(copies.goes_on(&whole, &keyed("id", "p 2 1:701"), &now), None, "altered");
        assert_eq!(copies.goes_on(&whole, &keyed("nr", "p 2 1:700"), &now), None, "another key");
        for (other, why) in [
            (since(&[("t", "1:8")]), "another table of its name"),
            (since(&[("t", "2:7")]), "it was away"),
            (since(&[]), "it is away"),
        ] {
            assert_eq!(copies.goes_on(&whole, &same, &other), None, "{why}");
        }
        for (jobs, why) in [
            (job(table("t", None), &["u"]), "another name"),
            (job(table("t", None), &["t", "u"]), "rows of several"),
            (job(table("u", None), &["t"]), "elsewhere"),
        ] {
            assert_eq!(copies.goes_on(&jobs, &same, &now), None, "{why}");
        }
    }

    #[test]
    fn what_takes_the_rows_of_many_holds_exactly_theirs() {
        let mut copies = Copies::default();
        copies.targets.insert(name("p"), held(&[("p1", "1"), ("p2", "2")]));
        let now = since(&[("p1", "1"), ("p2", "2"), ("p3", "3")]);
        let jobs = |sources: &[&str]| vec![job(table("p", None), sources)];
        assert!(owed(jobs(&["p1", "p2"]), &copies, &now).is_empty());
        assert_eq!(names(&owed(jobs(&["p1", "p2", "p3"]), &copies, &now)), ["p"], "one came");
        assert_eq!(names(&owed(jobs(&["p1"]), &copies, &now)), ["p"], "one left");
        // Now it is partitioned in the same way.
        let alike =
            vec![job(table("p1", Some("p")), &["p1"]), job(table("p2", Some("p")), &["p2"])];
        assert_eq!(names(&owed(alike.clone(), &copies, &now)), ["p1", "p2"]);
        copies.targets.insert(name("p"), Held::outdated());
        copies.targets.insert(name("p1"), held(&[("p1", "1")]));
        assert_eq!(names(&owed(alike, &copies, &now)), ["p2"]);
        assert_eq!(names(&owed(jobs(&["p1"]), &copies, &now)), ["p"]);
    }

    #[test]
    fn a_root_and_its_partitions_belong_together() {
        let mut copies = Copies::default();
        copies.targets.insert(name("p"), held(&[("p2", "2")]));
        copies.targets.insert(name("p1"), held(&[("p1", "1")]));
        let jobs = || vec![job(table("p1", Some("p")), &["p1"]), job(table("p", None), &["p2"])];
        assert!(owed(jobs(), &copies, &since(&[("p1", "1"), ("p2", "2")])).is_empty());
        let one = owed(jobs(), &copies, &since(&[("p1", "1"), ("p2", "9")]));
        assert_eq!(names(&one), ["p1", "p"]);
    }

    #[test]
    fn a_partition_without_a_place_is_a_stray_where_the_others_have_theirs() {
        let sources = [table("p1", Some("p")), table("p2", Some("p"))];
        let targets = [table("p1", Some("p"))];
        let route = |s: &str, target: Table| Route { source: name(s), target };
        let routes = [route("p1", targets[0].clone()), route("p2", table("p", None))];
        let mut copies = Copies::default();
        assert_eq!(copies.strays(&routes, &sources, &targets), HashSet::from([name("p2")]));
        assert!(copies.strays(&routes, &sources, &[table("p", None)]).is_empty(), "a plain table");
        copies.targets.insert(name("p"), held(&[("p0", "0")]));
        assert!(copies.strays(&routes, &sources, &targets).is_empty(), "it took others before");
    }

    #[test]
    fn a_counterpart_that_is_no_partition_yet_is_waited_for() {
        let sources = [table("p1", Some("p")), table("t", None)];
        let route = |target: Table| Route { source: target.name.clone(), target };
        let mut copies = Copies::default();
        let waiting = |copies: &Copies, target: Table| {
            copies.waiting(&[route(target), route(table("t", None))], &sources).len()
        };
        assert_eq!(waiting(&copies, table("p1", Some("p"))), 0);
        assert_eq!(waiting(&copies, table("p1", None)), 1);
        copies.targets.insert(name("p1"), held(&[("p1", "4:1")]));
        assert_eq!(waiting(&copies, table("p1", None)), 0, "it was one");
        assert!(copies.knows_entry("4:9:7") && !copies.knows_entry("41:1"));
        assert!(copies.knows("4:1") && !copies.knows("4:9"));
        assert_eq!([number("4:9:7"), number("4:9"), number("4")], [Some(9), Some(9), None]);
    }
}
