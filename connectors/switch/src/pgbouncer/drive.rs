//! Performs pause and re-pointing on a real PgBouncer.
//!
//! The order of the effects: file, RELOAD, proof that PgBouncer took it, RESUME. Clients are never
//! let through before the proof.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use cutover_core::{
    model::side::Side,
    port::switch::{Routing, SwitchError},
};
use futures_util::future::join_all;
use tokio::sync::Mutex;
use tokio_postgres::SimpleQueryRow;

use super::{
    console::{Console, Late, OrderError, Session, quoted},
    file::{self, Draft},
    idle, ini,
    quiet::{self, Usual},
    state::State,
    target::{Target, Targets},
};
use crate::failure::{Cause, ambiguous, refused, refused_by};

/// How long the console may take to answer what it answers at once when it is alive.
pub(super) const ANSWER: Duration = Duration::from_secs(1);

/// How long a RELOAD may take to show: some versions answer before they have read the file.
pub(super) const TAKEN: Duration = Duration::from_secs(1);

/// How long a re-pointing that has begun tries to reach a console that hung up.
const PERSIST: Duration = Duration::from_secs(3);

/// How long clients are held when a flowing PgBouncer is re-pointed; after that it is done without.
const OWN_PAUSE: Duration = Duration::from_millis(500);

/// How long pools may be kept from growing without a pause.
const NARROW: Duration = Duration::from_secs(2);

/// How long pools stay as they were found in a quiet moment.
const STILL_SETTLED: Duration = Duration::from_millis(100);

/// How long a PAUSE that was sent may take to arrive.
const ARRIVE: Duration = Duration::from_millis(200);

pub(super) const SHOW: &str = "SHOW DATABASES";

/// Everything one switch knows.
pub(super) struct Inner {
    pub(super) name: String,
    pub(super) console: Console,
    pub(super) databases: Vec<String>,
    pub(super) path: PathBuf,
    pub(super) targets: Targets,
    pub(super) pause_budget: Duration,
    pub(super) warm: Mutex<Warm>,
}

/// What is kept ready between calls.
#[derive(Default)]
pub(super) struct Warm {
    /// Gives all orders but PAUSE.
    pub(super) control: Option<Session>,
    /// One per database: PAUSE keeps its session busy until no transaction is in flight.
    pub(super) pausing: Vec<Session>,
    /// New contents of the file, already on disk beside it.
    pub(super) drafts: Vec<Draft>,
    /// The file that PgBouncer was seen to read, by device and number.
    pub(super) read: Option<(u64, u64)>,
    /// Settings that a move changes for a moment.
    pub(super) usual: Option<Usual>,
    /// Whether logins are still tried in quick succession.
    pub(super) eager: bool,
    /// Since when a quiet moment is there.
    pub(super) settled: Option<Instant>,
    /// Since when pools are kept from growing.
    pub(super) narrow: Option<Instant>,
}

/// How an attempt to re-point ended.
enum Attempt {
    Done,
    /// PgBouncer keeps another target although it was told to read the file.
    NotTaken,
    /// It points where it should, and somebody paused all of it.
    Held,
}

impl Inner {
    pub(super) fn new(
        name: String,
        console: Console,
        databases: Vec<String>,
        path: PathBuf,
        targets: Targets,
    ) -> Self {
        Self {
            name,
            console,
            databases,
            path,
            targets,
            pause_budget: Duration::from_secs(1),
            warm: Mutex::default(),
        }
    }

    pub(super) async fn observe(&self) -> Result<Routing, SwitchError> {
        let mut warm = self.warm.lock().await;
        let state = self.state(&mut warm).await?;
        Ok(state.routing(&self.targets))
    }

    /// Asks; on a session that turns out to be dead, once more on a new one.
    async fn state(&self, warm: &mut Warm) -> Result<State, SwitchError> {
        let used = warm.control.is_some();
        let mut answer = self.ask(self.control(warm).await?).await;
        if answer.is_err() {
            warm.control = None;
            if used {
                answer = self.ask(self.control(warm).await?).await;
            }
        }
        if answer.is_err() {
            warm.control = None;
        }
        answer.map_err(|error| ambiguous(&self.name, SHOW, error))
    }

    /// Some time after a move, spaces logins as usual again. Until then, or until the next RELOAD
    /// when this process ends before, PgBouncer tries often.
    pub(super) async fn calm_down(&self) {
        let begun = Instant::now();
        loop {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let mut warm = self.warm.lock().await;
            if !warm.eager {
                return;
            }
            let Ok(control) = self.control(&mut warm).await else { return };
            let calm = quiet::is_calm(control, &self.databases, ANSWER).await;
            if !calm.unwrap_or(true) && begun.elapsed() < PERSIST {
                continue;
            }
            if let Err(error) = self.reload_if_same(&mut warm).await {
                tracing::debug!(switch = self.name, %error, "logins are tried often for now");
            }
            return;
        }
    }

    /// Lets pools grow again when no pause has done so.
    pub(super) async fn widen(&self) {
        loop {
            tokio::time::sleep(NARROW).await;
            let mut warm = self.warm.lock().await;
            let Some(since) = warm.narrow else { return };
            if since.elapsed() < NARROW {
                continue;
            }
            let usual = warm.usual.clone();
            let Ok(control) = self.control(&mut warm).await else { continue };
            match self.ask_and_grow(control, &usual).await {
                Ok(_) => warm.narrow = None,
                Err(error) => {
                    tracing::debug!(switch = self.name, %error, "pools do not grow yet");
                    warm.control = None;
                }
            }
        }
    }

    /// Closes server connections that nobody uses just now; from then on few come instead.
    pub(super) async fn shed(&self) -> Result<(), SwitchError> {
        let mut warm = self.warm.lock().await;
        self.control(&mut warm).await?;
        let Some(usual) = warm.usual.clone() else { return Ok(()) };
        warm.narrow = Some(Instant::now());
        let control = self.control(&mut warm).await?;
        let closed = async {
            idle::close(control, &usual, &self.databases, ANSWER).await?;
            quiet::stop_growth(control, &usual, &self.databases, quiet::ENOUGH, ANSWER).await
        }
        .await;
        if matches!(closed, Err(OrderError::NoAnswer { .. })) {
            warm.control = None;
        }
        closed.map_err(|error| refused_by(&self.name, "closing idle connections", error))
    }

    /// Keeps pools from growing and waits until few transactions and no login are under way.
    pub(super) async fn quiet(&self) -> Result<(), SwitchError> {
        let mut warm = self.warm.lock().await;
        self.control(&mut warm).await?;
        let Some(usual) = warm.usual.clone() else { return Ok(()) };
        warm.narrow = Some(Instant::now());
        let control = self.control(&mut warm).await?;
        match quiet::settle(control, &usual, &self.databases, quiet::PATIENCE, ANSWER, ANSWER).await
        {
            Ok(()) => {
                warm.settled = Some(Instant::now());
                Ok(())
            }
            Err(error) => {
                warm.control = None;
                Err(refused_by(&self.name, "waiting for a quiet moment", error))
            }
        }
    }

    pub(super) async fn pause(&self, within: Duration) -> Result<(), SwitchError> {
        let mut warm = self.warm.lock().await;
        self.hold(&mut warm, within).await
    }

    async fn hold(&self, warm: &mut Warm, within: Duration) -> Result<(), SwitchError> {
        let begun = Instant::now();
        self.connect(warm).await?;
        let usual = warm.usual.clone();
        let settled = warm.settled.take().is_some_and(|at| at.elapsed() < STILL_SETTLED);
        if let Some(usual) = usual.as_ref().filter(|_| !settled) {
            let control = self.control(warm).await?;
            let none = Duration::ZERO;
            let settled =
                quiet::settle(control, usual, &self.databases, none, within, ANSWER).await;
            if let Err(error) = settled {
                return self.let_go(warm, Vec::new(), &[], error.into()).await;
            }
        }
        let sessions = std::mem::take(&mut warm.pausing);
        let left = within.saturating_sub(begun.elapsed());
        let answers = join_all(sessions.iter().zip(&self.databases).map(|(session, name)| {
            let order = format!("PAUSE {}", quoted(name));
            async move { session.order(&order, left).await.err() }
        }))
        .await;
        let pending: Vec<&str> = answers
            .iter()
            .zip(&self.databases)
            .filter(|(answer, _)| matches!(answer, Some(OrderError::NoAnswer { cause, .. }) if cause.is::<Late>()))
            .map(|(_, name)| &**name)
            .collect();
        let failure = answers.into_iter().flatten().next();
        let why: Cause = match failure {
            None => {
                // Another console can have resumed us and the answer be meant for its PAUSE.
                let state = match self.control(warm).await {
                    Ok(control) => self.ask_and_grow(control, &usual).await.map_err(Cause::from),
                    Err(error) => Err(error.into()),
                };
                match state {
                    Ok(state) if state.all_paused() => {
                        warm.pausing = sessions;
                        warm.narrow = None;
                        tracing::debug!(switch = self.name, took = ?begun.elapsed(), "paused");
                        return Ok(());
                    }
                    Ok(_) => "somebody else gave RESUME meanwhile".into(),
                    Err(error) => error,
                }
            }
            Some(error) => error.into(),
        };
        self.let_go(warm, sessions, &pending, why).await
    }

    /// After a pause that failed: clients flow again, and that is proven, or nobody knows.
    async fn let_go(
        &self,
        warm: &mut Warm,
        sessions: Vec<Session>,
        pending: &[&str],
        why: Cause,
    ) -> Result<(), SwitchError> {
        let mut sessions = Some(sessions);
        let mut freed = self.free(warm, &mut sessions, pending).await;
        if freed.is_err() {
            // What broke our PAUSE often breaks the session beside it.
            warm.control = None;
            freed = self.free(warm, &mut sessions, pending).await;
        }
        match freed {
            Ok(false) => Err(refused_by(&self.name, "PAUSE; clients flow as before", why)),
            Ok(true) => {
                let what = "PAUSE; somebody else has paused the whole PgBouncer";
                Err(refused_by(&self.name, what, why))
            }
            Err(cause) => {
                warm.control = None;
                let what = format!("RESUME after a PAUSE that failed ({why})");
                Err(ambiguous(&self.name, what, cause))
            }
        }
    }

    /// Ends the pause of our databases and proves it; says whether somebody else's holds all.
    async fn free(
        &self,
        warm: &mut Warm,
        sessions: &mut Option<Vec<Session>>,
        pending: &[&str],
    ) -> Result<bool, Cause> {
        let usual = warm.usual.clone();
        let control = self.control(warm).await?;
        // A RESUME that overtakes its PAUSE frees nobody.
        let begun = Instant::now();
        let mut state = self.ask_and_grow(control, &usual).await?;
        while sessions.is_some() && !pending.iter().all(|name| state.paused().contains(name)) {
            if begun.elapsed() > ARRIVE {
                return Err("a PAUSE was sent and may still arrive".into());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
            state = self.ask(control).await?;
        }
        resume(control, &state.paused()).await?;
        // PgBouncer never answers a PAUSE that was resumed before it was done.
        drop(sessions.take());
        let state = self.ask(control).await?;
        warm.narrow = None;
        if state.paused().is_empty() {
            Ok(state.whole_paused == Some(true))
        } else {
            Err("it is still paused".into())
        }
    }

    pub(super) async fn point_at(&self, side: Side) -> Result<(), SwitchError> {
        let begun = Instant::now();
        let mut warm = self.warm.lock().await;
        let target = self.targets.of(side);
        let failed = |what: &str, cause: Cause| refused_by(&self.name, what, cause);
        // Nothing is touched before the console has answered.
        let state = self.state(&mut warm).await?;
        let before = self.read().map_err(|error| failed("reading its file", error.into()))?;
        let wanted = self.contents(&before, side)?;
        let changed = wanted != before;
        if !state.all_at(target) && state.paused().is_empty() {
            // Without a pause a login under way is cut off and clients are thrown out.
            if let Err(error) = self.hold(&mut warm, OWN_PAUSE).await {
                tracing::debug!(switch = self.name, %error, "re-pointing without a pause");
            }
        }
        if changed {
            let ready = warm.drafts.iter().position(|draft| draft.contents() == wanted);
            let draft = match ready {
                Some(at) => warm.drafts.swap_remove(at),
                None => self
                    .draft(wanted)
                    .await
                    .map_err(|cause| failed("writing beside its file", cause))?,
            };
            draft.put().map_err(|error| failed("replacing its file", error.into()))?;
        }
        warm.eager = true;
        loop {
            let attempt = match self.control(&mut warm).await {
                Ok(control) => self.attempt(control, target).await,
                Err(error) => Err(OrderError::NoAnswer {
                    order: "connecting again".to_owned(),
                    cause: error.into(),
                }),
            };
            match attempt {
                Ok(Attempt::Done) => break,
                Ok(Attempt::Held) => {
                    let why = "the whole PgBouncer is paused, which is not ours to end";
                    return Err(ambiguous(&self.name, format!("pointing at {side}"), why));
                }
                Ok(Attempt::NotTaken) => {
                    let why = "PgBouncer did not take the new target; is this the file it reads?";
                    return Err(self.take_back(&mut warm, changed, before, why.into()).await);
                }
                Err(error @ OrderError::Refused { .. }) => {
                    return Err(self.take_back(&mut warm, changed, before, error.into()).await);
                }
                // All of it states a target, so on a new session it is simply stated again.
                Err(error) => {
                    warm.control = None;
                    if begun.elapsed() > PERSIST {
                        return Err(ambiguous(&self.name, format!("pointing at {side}"), error));
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        warm.narrow = None;
        tracing::debug!(switch = self.name, %side, took = ?begun.elapsed(), "pointed");
        if changed {
            warm.read = file::identity(&self.path).ok();
            self.settle_on_disk().await;
        }
        Ok(())
    }

    /// RELOAD, proof, RESUME: two round trips. RELOAD is given also when nothing is new, for it
    /// puts back settings that a crash left changed.
    async fn attempt(&self, control: &Session, target: &Target) -> Result<Attempt, OrderError> {
        let (reloaded, eager, state) = tokio::join!(
            control.order("RELOAD", ANSWER),
            control.order(quiet::EAGER, ANSWER),
            self.ask(control)
        );
        reloaded?;
        eager?;
        let mut state = state?;
        let asked = Instant::now();
        while !state.all_at(target) {
            if asked.elapsed() > TAKEN {
                return Ok(Attempt::NotTaken);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
            state = self.ask(control).await?;
        }
        resume(control, &state.paused()).await?;
        if state.whole_paused == Some(true) {
            return Ok(Attempt::Held);
        }
        Ok(Attempt::Done)
    }

    /// PgBouncer refused the new file: the old one is put back, and routing is proven unchanged.
    async fn take_back(
        &self,
        warm: &mut Warm,
        changed: bool,
        before: Vec<u8>,
        why: Cause,
    ) -> SwitchError {
        if !changed {
            return refused_by(&self.name, "RELOAD", why);
        }
        let undone: Result<(), Cause> = async {
            let old = ini::databases(&before)?;
            self.draft(before).await?.put()?;
            let control = self.control(warm).await?;
            let (reloaded, state) =
                tokio::join!(control.order("RELOAD", ANSWER), self.ask(control));
            // It may refuse this as it refused the first; what counts is where it points.
            drop(reloaded);
            if state?.is_as(&old) { Ok(()) } else { Err("it points neither here nor there".into()) }
        }
        .await;
        match undone {
            Ok(()) => refused_by(&self.name, "RELOAD; its file is as before", why),
            Err(cause) => {
                ambiguous(&self.name, format!("RELOAD of the old file after: {why}"), cause)
            }
        }
    }

    /// Makes the rename durable; clients flow already.
    async fn settle_on_disk(&self) {
        let path = self.path.clone();
        let synced = tokio::task::spawn_blocking(move || file::sync_folder(&path)).await;
        if !matches!(synced, Ok(Ok(()))) {
            tracing::warn!(path = %self.path.display(), "the new file may not survive a power cut");
        }
    }

    /// Opens what is not open: the control session and one per database.
    pub(super) async fn connect(&self, warm: &mut Warm) -> Result<(), SwitchError> {
        self.control(warm).await?;
        warm.pausing.retain(Session::is_open);
        while warm.pausing.len() < self.databases.len() {
            warm.pausing.push(self.open().await?);
        }
        Ok(())
    }

    pub(super) async fn control<'a>(&self, warm: &'a mut Warm) -> Result<&'a Session, SwitchError> {
        let session = match warm.control.take().filter(Session::is_open) {
            Some(open) => open,
            None => {
                let new = self.open().await?;
                // It may be another process, which reads another file.
                warm.read = None;
                if warm.usual.is_none()
                    && let Ok(config) = new.order("SHOW CONFIG", ANSWER).await
                {
                    warm.usual = Usual::read(&config);
                }
                new
            }
        };
        Ok(warm.control.insert(session))
    }

    async fn open(&self) -> Result<Session, SwitchError> {
        self.console.open(ANSWER).await.map_err(|cause| {
            let what = format!("connecting to its console at {}", self.console.place());
            refused_by(&self.name, what, cause)
        })
    }

    pub(super) async fn ask(&self, session: &Session) -> Result<State, OrderError> {
        let (databases, state) =
            tokio::join!(session.order(SHOW, ANSWER), session.order("SHOW STATE", ANSWER));
        let databases: Vec<SimpleQueryRow> = databases?;
        // Older versions do not know the second order, which is an answer as well.
        let state = match state {
            Ok(rows) => Some(rows),
            Err(OrderError::Refused { .. }) => None,
            Err(error) => return Err(error),
        };
        State::new(&self.databases, &databases, state.as_deref())
            .map_err(|words| OrderError::Refused { order: SHOW.to_owned(), words })
    }

    /// Asks, and lets pools grow again at the same time.
    async fn ask_and_grow(
        &self,
        control: &Session,
        usual: &Option<Usual>,
    ) -> Result<State, OrderError> {
        let Some(usual) = usual else { return self.ask(control).await };
        let order = usual.grow();
        let (grown, state) = tokio::join!(control.order(&order, ANSWER), self.ask(control));
        match grown {
            Ok(_) | Err(OrderError::Refused { .. }) => state,
            Err(error) => Err(error),
        }
    }

    pub(super) fn read(&self) -> std::io::Result<Vec<u8>> {
        fs::read(&self.path)
    }

    pub(super) fn contents(&self, text: &[u8], side: Side) -> Result<Vec<u8>, SwitchError> {
        ini::pointed_at(text, &self.databases, self.targets.of(side)).map_err(|error| {
            refused(&self.name, format!("cannot change {}: {error}", self.path.display()))
        })
    }

    pub(super) async fn draft(&self, contents: Vec<u8>) -> Result<Draft, Cause> {
        let path = self.path.clone();
        let written = tokio::task::spawn_blocking(move || Draft::write(&path, contents)).await?;
        Ok(written?)
    }
}

/// Frees databases; one that is not paused any more is fine.
async fn resume(control: &Session, names: &[&str]) -> Result<(), OrderError> {
    let answers = join_all(names.iter().map(|name| {
        let order = format!("RESUME {}", quoted(name));
        async move { control.order(&order, ANSWER).await }
    }))
    .await;
    for answer in answers {
        match answer {
            Err(OrderError::Refused { words, .. }) if words.contains("is not paused") => {}
            other => drop(other?),
        }
    }
    Ok(())
}
