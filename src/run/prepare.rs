//! From nothing to a stream: definitions, capture, rows, indexes, the way back.
//!
//! Every step is skipped when its fact is there, and may be repeated when it is not: this is the
//! same code for a first start and for the start after a crash.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use cutover_core::{
    model::{
        finding::Scope,
        run::RunId,
        schema::{Counterparts, RowIdentity, Table, TableName},
        selection::Selection,
        side::Side,
    },
    port::{
        PortError,
        source::{Capture, Since},
    },
};

use super::{
    beside, book::Book, error::RunError, fact::Fact, ports::Ports, rows::Sides, standing::Standing,
};
use crate::{
    error::Failure,
    observe::progress::Progress,
    preflight,
    stream::{Policy, handover::Handover},
    transform::{self, Mapping},
};

/// Where green's tables come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Definitions {
    /// Copied from blue; then these commands run, each with `/bin/sh -c` in `folder` with
    /// `environment`.
    Copy {
        /// The user's own commands; may be empty.
        commands: Vec<String>,
        /// Where they run.
        folder: PathBuf,
        /// How they reach green; holds the password.
        environment: Vec<(String, String)>,
    },
    /// They are there already.
    Provided,
}

/// What preparation needs.
pub struct Preparation {
    /// The run.
    pub run: RunId,
    /// What is moved.
    pub selection: Selection,
    /// The machinery.
    pub ports: Ports,
    /// The journal.
    pub book: Arc<Book>,
    /// Where green's tables come from.
    pub definitions: Definitions,
    /// What happens when definitions change during the run.
    pub policy: Policy,
    /// Workers of copy and indexes.
    pub workers: usize,
    /// Bytes of a range.
    pub chunk: u64,
    /// Bytes per second.
    pub rate: Option<u64>,
    /// Whom to tell.
    pub progress: Arc<Progress>,
    /// Targets of a copy whose sources were emptied before their turn.
    pub emptied: Mutex<HashSet<TableName>>,
}

/// What the stream needs.
pub struct Prepared {
    /// Tables of blue and where they go.
    pub mapping: Mapping,
    /// From copied rows to the stream that reads blue, and the one that reads green.
    pub handover: [Handover; 2],
    /// Definitions of blue and of green as they were meanwhile.
    pub definitions: [BTreeMap<String, String>; 2],
    /// Whether their streams tell of every change of them.
    pub told: [bool; 2],
}

/// Milliseconds since 1970.
#[must_use]
pub fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

/// What a run follows was to be kept by the server, and is not.
pub(super) fn nothing_kept(side: Side) -> PortError {
    PortError::definite(
        "CUT0201",
        format!("going on to follow changes on {side}"),
        "the replication slot of the run does not exist",
        "changes are missing and cannot be had again: end this run with `cutover abort` and start \
         a new one",
    )
}

impl Preparation {
    /// Brings the run to the point where changes can be followed both ways. A stream waits for the
    /// tables `waited_for`.
    ///
    /// # Errors
    ///
    /// The first failure; what was done stays done, and the call can be repeated.
    pub async fn prepare(&self, waited_for: &[TableName]) -> Result<Prepared, RunError> {
        let result = self.steps(waited_for).await;
        let last_word = |e: &RunError| e.is_transient() || matches!(e, RunError::Journal(_));
        if result.as_ref().is_err_and(|e| !last_word(e))
            && self.book.standing().start.is_some()
            && let Err(e) = self.primaries().await
            && e.is_transient()
        {
            // In the middle of a failover much is refused: that is no reason to end.
            return Err(e);
        }
        result
    }

    async fn steps(&self, waited_for: &[TableName]) -> Result<Prepared, RunError> {
        self.begin().await?;
        if self.book.standing().start.is_some() {
            self.primaries().await?;
        }
        self.keep_what_was_given().await?;
        self.ports.green.sink.prepare(&self.run).await?;
        let blue = self.ports.blue.source.tables(&self.selection).await?;
        let (all, complete) = (blue.len(), self.book.standing().after_rows);
        let (blue, mut new) = self.look_for_new(blue).await?;
        let left_out = all - blue.len();
        new.extend(waited_for.iter().cloned());
        let first = self.book.standing().start.is_none();
        let capture = self.capture(&blue).await?;
        if first {
            self.nothing_came(&blue).await?;
        }
        let Capture { definitions: told, since, snapshot, .. } = capture;
        self.add(&new, &since, told).await?;
        self.definitions_before_rows().await?;
        // The definitions of green may differ from blue's where the user provides them.
        let green = self.ports.green.source.definitions(&self.selection_of_green()).await?;
        let mapping = transform::map(&blue, &green).map_err(|e| {
            Failure::new(e.to_string())
                .code("CUT0301")
                .remedy("create the table on green, or leave it out with `tables: exclude`")
        })?;
        self.accept_definitions(&blue, &green, told).await?;
        // Green belongs to nobody but us from here on.
        self.fence_green(&green).await?;
        let stops = [told && self.policy != Policy::Apply, false];
        let sides = Sides { blue: &blue, green: &green, mapping: &mapping, stops };
        self.rows(Side::Blue, &sides, &since, snapshot).await?;
        self.definitions_after_rows(told).await?;
        if !complete && left_out > 0 {
            return Err(PortError::transient(
                "copying rows",
                "tables came into being on blue meanwhile, and are looked at now",
            )
            .into());
        }
        let (back, back_told) = self.arm_way_back(&blue).await?;
        // Sizes, keys and estimates are known better now.
        let green = self.ports.green.source.tables(&self.selection_of_green()).await?;
        let mapping = transform::map(&blue, &green).map_err(|e| Failure::new(e.to_string()))?;
        let stops = [stops[0], back_told];
        let sides = Sides { blue: &blue, green: &green, mapping: &mapping, stops };
        self.rows(Side::Green, &sides, &back, None).await?;
        self.follow(&sides, &since, &back)?;
        let handover = self.handovers(&sides, &since, &back)?;
        let definitions = [
            self.ports.blue.primary.fingerprint(&self.selection).await?,
            self.ports.green.primary.fingerprint(&self.selection).await?,
        ];
        self.accept_definitions_of_green(&blue, &green, &definitions[1])?;
        beside::remember(&self.ports, &self.selection, &self.book).await?;
        let standing = self.book.standing();
        let strays = [Side::Blue, Side::Green].map(|from| sides.strays(from, &standing));
        let [from_blue, from_green] = strays;
        let mut mapping = mapping;
        // Their rows have no place yet: the stream says so when they come.
        Arc::make_mut(&mut mapping.forward).retain(|route| !from_blue.contains(&route.source));
        Arc::make_mut(&mut mapping.back).retain(|route| !from_green.contains(&route.source));
        Ok(Prepared { mapping, handover, definitions, told: [told, back_told] })
    }

    /// Green holds what blue's selection names; where it is partitioned in another way, its leaves
    /// follow their root.
    fn selection_of_green(&self) -> Selection {
        self.selection.clone()
    }

    async fn begin(&self) -> Result<(), RunError> {
        let standing = self.book.standing();
        let resuming = standing.addresses.is_some();
        if resuming {
            self.is_between_these()?;
            self.book.note(Fact::Resumed { at_ms: now_ms() })?;
        }
        if standing.start.is_none() {
            let (ports, makes) = (&self.ports, self.makes_definitions());
            let asked =
                inputs(&self.run, &self.selection, ports, &standing, resuming, makes, self.workers);
            let report = preflight::examine(&asked, Scope::Start).await;
            for finding in &report.findings {
                tracing::info!(
                    code = %finding.code, place = %finding.place, severity = ?finding.severity,
                    "{}", finding.what
                );
            }
            if report.blocks() {
                return Err(RunError::Findings(Box::new(report)));
            }
        }
        if !resuming {
            self.book.note(Fact::Began {
                run: self.run.clone(),
                blue: self.ports.blue.address.clone(),
                green: self.ports.green.address.clone(),
                selection: self.selection.clone(),
                version: env!("CARGO_PKG_VERSION").into(),
                at_ms: now_ms(),
            })?;
        }
        Ok(())
    }

    pub(super) fn makes_definitions(&self) -> bool {
        matches!(self.definitions, Definitions::Copy { .. })
    }

    /// Blue keeps its log from here on; the snapshot is there only the first time.
    async fn capture(&self, blue: &[Table]) -> Result<Capture, RunError> {
        let standing = self.book.standing();
        let source = &self.ports.blue.source;
        let capture = match &standing.start {
            None => source.capture(&self.run, blue, true).await?,
            Some(start) => match source.resume(&self.run, blue).await? {
                Some(capture) => capture,
                // The stream stops by name, and says more; what else is there goes on.
                None if standing.from_blue.ended.is_some() => {
                    let (start, since) = (start.clone(), Since::default());
                    return Ok(Capture { start, definitions: false, since, snapshot: None });
                }
                None => {
                    // After a failover there is more to be said.
                    source.rebase(start).await?;
                    return Err(nothing_kept(Side::Blue).into());
                }
            },
        };
        if standing.start.is_none() {
            let definitions = self.ports.blue.primary.fingerprint(&self.selection).await?;
            let captured = Fact::Captured {
                start: capture.start.clone(),
                tables: blue.iter().map(|t| t.name.clone()).collect(),
                definitions,
            };
            let mut facts = beside::facts(&self.ports, &self.selection, &[Side::Blue]).await;
            facts.push(captured);
            self.book.note_all(&facts)?;
        }
        if !capture.definitions {
            tracing::info!(
                "definitions that change on blue are noticed at the next row of another shape: \
                 event triggers may not be created there (CUT0150)"
            );
        }
        Ok(capture)
    }

    /// No table came before changes were captured and behind the look at tables: no stream tells of
    /// it.
    async fn nothing_came(&self, before: &[Table]) -> Result<(), RunError> {
        let now = self.ports.blue.source.definitions(&self.selection).await?;
        let is_known = |table: &Table| before.iter().any(|t| t.name == table.name);
        if now.iter().all(is_known) {
            return Ok(());
        }
        let what = "tables came into being on blue meanwhile, and are looked at now";
        Err(PortError::transient("capturing changes of blue", what).into())
    }

    /// Tables that came into being on blue since green got its definitions: to be made on green as
    /// well, left out, or left to be complained about. Blue's tables that the run goes on with, and
    /// those to be made.
    async fn look_for_new(
        &self,
        blue: Vec<Table>,
    ) -> Result<(Vec<Table>, Vec<TableName>), RunError> {
        let standing = self.book.standing();
        let early = !standing.after_rows;
        // A copy may have to be begun again before it is noted.
        let begun = standing.before_rows || standing.copy_began;
        let nothing_new = match self.policy {
            Policy::Stop => !early || !begun,
            Policy::Apply => early && !begun,
            Policy::Ignore => early,
        };
        if nothing_new {
            return Ok((blue, Vec::new()));
        }
        let green = self.ports.green.source.definitions(&self.selection_of_green()).await?;
        let there = Counterparts::new(&green);
        if early {
            let late = |t: &Table| self.comes_later(there.of(t).as_ref());
            let known = blue.into_iter().filter(|t| !late(t)).collect();
            return Ok((known, Vec::new()));
        }
        let (known, new): (Vec<Table>, Vec<Table>) =
            blue.into_iter().partition(|t| there.of(t).is_some());
        if self.policy == Policy::Ignore {
            for table in new {
                tracing::warn!(table = %table.name, "a table is new on blue, and that is ignored");
            }
            return Ok((known, Vec::new()));
        }
        let mapping = transform::map(&known, &green).map_err(|e| Failure::new(e.to_string()))?;
        let strays = standing.from_blue.strays(&mapping.forward, &known, &green);
        let names = new.iter().map(|t| t.name.clone()).chain(strays).collect();
        Ok((known.into_iter().chain(new).collect(), names))
    }

    /// Whether a table has to wait until green is complete, since it came into being after green
    /// got its definitions. A partition would go to its root otherwise.
    fn comes_later(&self, counterpart: Option<&Cow<'_, Table>>) -> bool {
        match counterpart {
            None => self.policy == Policy::Apply,
            Some(Cow::Owned(_)) => self.makes_definitions(),
            Some(Cow::Borrowed(_)) => false,
        }
    }

    /// Makes tables on green that are new on blue. With `told`, the stream tells when they become
    /// partitions.
    async fn add(&self, new: &[TableName], since: &Since, told: bool) -> Result<(), RunError> {
        let standing = self.book.standing();
        let follows = standing.after_rows && self.policy == Policy::Apply;
        if !follows || !self.may_copy(Side::Blue, &standing) {
            return Ok(());
        }
        // A table that was renamed is no new one.
        let renamed =
            |t: &&TableName| since.get(t).is_some_and(|since| standing.from_blue.knows(since));
        let names: Vec<TableName> = new.iter().filter(|t| !renamed(t)).cloned().collect();
        if !names.is_empty() {
            let green = self.ports.green.source.definitions(&self.selection_of_green()).await?;
            let missing = names.iter().filter(|name| !green.iter().any(|g| g.name == **name));
            self.are_gone(Side::Blue, missing.cloned())?;
            self.progress.say("creating new tables on green");
        }
        self.ports.schema.add(&self.selection, &names, !told).await?;
        Ok(())
    }

    /// The other side may be filled from this one.
    pub(super) fn may_copy(&self, from: Side, standing: &Standing) -> bool {
        standing.owner == from && standing.open_move.is_none()
    }

    async fn definitions_before_rows(&self) -> Result<(), RunError> {
        let Definitions::Copy { commands, folder, environment } = &self.definitions else {
            return Ok(());
        };
        if !self.book.standing().before_rows {
            self.progress.say("copying definitions");
            self.ports.schema.before_rows(&self.selection).await?;
            self.note_given(Fact::DefinitionsBeforeRows).await?;
        }
        let done = self.book.standing().user_commands;
        for (i, command) in commands.iter().enumerate().skip(done) {
            self.progress.say(&format!("running schema command {}", i + 1));
            run_command(command, i + 1, folder, environment).await?;
            self.note_given(Fact::UserCommand).await?;
        }
        Ok(())
    }

    /// Tables that were altered while nobody worked on the run are accepted when both sides were
    /// altered alike.
    /// With `told`, the stream tells of what is different still, in its place.
    async fn accept_definitions(
        &self,
        blue: &[Table],
        green: &[Table],
        told: bool,
    ) -> Result<(), RunError> {
        let now = self.ports.blue.primary.fingerprint(&self.selection).await?;
        if now == **self.book.standing().definitions(Side::Blue) {
            return Ok(());
        }
        let mut findings = preflight::compare_tables(blue, green, Side::Green, false);
        let come = self.makes_definitions() && self.book.standing().keys_come();
        findings.retain(|f| !(come && preflight::is_of_key(&f.code)));
        let report = preflight::Report::new(Scope::Start, findings);
        if report.blocks() {
            if told {
                return Ok(());
            }
            return Err(RunError::Findings(Box::new(report)));
        }
        self.book.note(Fact::Redefined { of: Side::Blue, definitions: now })?;
        Ok(())
    }

    /// What green is like while clients write to blue, it may be; later each change has to be on
    /// blue as well, or a rollback would leave rows behind.
    fn accept_definitions_of_green(
        &self,
        blue: &[Table],
        green: &[Table],
        now: &BTreeMap<String, String>,
    ) -> Result<(), RunError> {
        let standing = self.book.standing();
        let known = standing.definitions(Side::Green);
        let is_new = |t: &&Table| known.get(&t.name.to_string()) != now.get(&t.name.to_string());
        let changed: Vec<Table> = green.iter().filter(is_new).cloned().collect();
        if *now == **known || standing.owner == Side::Green && !fit(&changed, blue) {
            return Ok(());
        }
        self.book.note(Fact::Redefined { of: Side::Green, definitions: now.clone() })?;
        Ok(())
    }

    async fn fence_green(&self, green: &[Table]) -> Result<(), RunError> {
        if self.book.standing().owner == Side::Green || self.book.standing().open_move.is_some() {
            return Ok(());
        }
        let primary = &self.ports.green.primary;
        primary.install_fence(&self.run, green).await?;
        primary.close_to_clients(&self.run, Duration::from_secs(10)).await?;
        Ok(())
    }

    async fn definitions_after_rows(&self, told: bool) -> Result<(), RunError> {
        if self.book.standing().after_rows {
            return Ok(());
        }
        match self.definitions {
            Definitions::Copy { .. } => {
                self.progress.say("building indexes and constraints");
                let torn = self.book.standing().from_blue.torn();
                let told = told && self.policy != Policy::Ignore;
                let (selection, workers) = (&self.selection, self.workers);
                self.ports.schema.after_rows(selection, workers, torn.as_ref(), told).await?;
            }
            Definitions::Provided => {
                self.progress.say("gathering statistics");
                self.ports.schema.analyze(self.workers).await?;
            }
        }
        self.note_given(Fact::DefinitionsAfterRows).await
    }

    /// Green keeps its log, and blue can be written by our sink: long before the first move, so
    /// that a pause has nothing to wait for, and that a foreign write on green is seen.
    /// Says since when green's tables are followed, and whether green's stream tells of every
    /// change of definitions.
    async fn arm_way_back(&self, blue: &[Table]) -> Result<(Since, bool), RunError> {
        let green = self.ports.green.source.definitions(&self.selection_of_green()).await?;
        self.ports.blue.sink.prepare(&self.run).await?;
        // What only green has is no part of the run, and nothing is asked of it.
        let there = Counterparts::new(blue);
        let identified = |t: &&Table| t.identity != RowIdentity::Nothing || there.of(t).is_some();
        let followed: Vec<Table> = green.iter().filter(identified).cloned().collect();
        let kept = if self.book.standing().way_back {
            // When it is gone the stream stops by name.
            self.ports.green.source.resume(&self.run, &followed).await?
        } else {
            Some(self.ports.green.source.capture(&self.run, &followed, false).await?)
        };
        // Tables that came since the first time are closed as well.
        let owner = self.book.standing().owner;
        for (side, tables) in [(Side::Blue, blue), (Side::Green, &green)] {
            let primary = &self.ports.side(side).primary;
            if side == owner {
                primary.lay_fence(&self.run, tables).await?;
            } else {
                primary.install_fence(&self.run, tables).await?;
            }
        }
        if owner == Side::Blue && self.book.standing().open_move.is_none() {
            let within = Duration::from_secs(10);
            self.ports.green.primary.close_to_clients(&self.run, within).await?;
        }
        if !self.book.standing().way_back {
            // Green may have failed over since this began, between two sessions.
            self.keep_what_was_given().await?;
            let start = kept.as_ref().map(|k| k.start.clone());
            self.book.note(Fact::WayBackArmed { start })?;
        }
        Ok(kept.map(|k| (k.since, k.definitions)).unwrap_or_default())
    }
}

/// Whether blue can take every row of these tables of green.
fn fit(green: &[Table], blue: &[Table]) -> bool {
    let findings = preflight::compare_tables(green, blue, Side::Blue, false);
    !preflight::Report::new(Scope::Move, findings).blocks()
}

/// What preflight looks at, at any time of a run.
#[must_use]
pub fn inputs(
    run: &RunId,
    selection: &Selection,
    ports: &Ports,
    standing: &Standing,
    resuming: bool,
    copies_schema: bool,
    workers: usize,
) -> preflight::Inputs {
    let place = |db: &super::ports::Database| preflight::Place {
        source: Arc::clone(&db.source),
        primary: Arc::clone(&db.primary),
        examine: Arc::clone(&db.examine),
    };
    let mut began = BTreeMap::new();
    if standing.start.is_some() {
        began.insert(Side::Blue, Arc::clone(standing.definitions(Side::Blue)));
        if standing.owner == Side::Green {
            began.insert(Side::Green, Arc::clone(standing.definitions(Side::Green)));
        }
    }
    preflight::Inputs {
        run: run.clone(),
        selection: selection.clone(),
        blue: place(&ports.blue),
        green: place(&ports.green),
        switches: ports.switches.clone(),
        owner: standing.owner,
        resuming,
        copies_schema,
        keys_come: copies_schema && standing.keys_come(),
        workers,
        began,
        beside: standing.beside.clone(),
    }
}

async fn run_command(
    command: &str,
    number: usize,
    folder: &std::path::Path,
    environment: &[(String, String)],
) -> Result<(), RunError> {
    let output = tokio::process::Command::new("/bin/sh")
        .arg("-c")
        .arg(command)
        .current_dir(folder)
        .envs(environment.iter().map(|(k, v)| (k, v)))
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|e| {
            Failure::new(format!("schema command {number} could not start")).caused_by(&e)
        })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let tail: Vec<&str> = said.lines().rev().take(5).collect();
    let tail: Vec<&str> = tail.into_iter().rev().collect();
    Err(Failure::new(format!(
        "schema command {number} ended with {}: {}",
        output.status,
        tail.join(" | ")
    ))
    .code("CUT0302")
    .remedy("correct the command, or what it works on, and start `cutover run` again")
    .into())
}
