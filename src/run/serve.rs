//! The process behind `cutover run`: takes the run up where the journal says it is, and answers
//! commands until it is told to stop or has reached what it was started for.

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use cutover_core::{
    model::{schema::TableName, side::Side},
    port::sink::Lease,
};
use serde_json::json;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::{
    at_start::AtStart,
    attempts::{Interrupted, Waits, prepare},
    command::{Answer, Request},
    ends::{may_end, over, remove},
    error::RunError,
    goal::{Goal, Until, Wanted},
    interrupted,
    kept::{Kept, shapes},
    live::{Live, Parts, Wishes},
    moves,
    perform::Asked,
    pipes::Pipes,
    prepare::{Preparation, Prepared},
    proof::Proof,
    removal,
    socket::{Incoming, Responder},
    status::Board,
};
use crate::{
    error::{Exit, Failure},
    stream::{Mode, Pipe, PipeConfig},
    verify::saved,
};

/// Bytes of one batch of changes.
const BATCH_BYTES: usize = 4 << 20;
/// Bytes of changed keys that are remembered.
const LEDGER_BYTES: usize = 64 << 20;
/// How long a new process waits for the lease of one that is just ending.
const LEASE_WITHIN: Duration = Duration::from_secs(10);
/// How often the lease is looked at.
const LEASE_EVERY: Duration = Duration::from_secs(2);
/// How often what the process was started for is looked at.
const GOAL_EVERY: Duration = Duration::from_millis(200);
/// Another process has the lease.
pub(super) const TAKEN: &str = "CUT0501";

/// A run to take up.
pub struct Start {
    /// What preparation needs, the journal included.
    pub preparation: Preparation,
    /// What the user wants of the flowing run.
    pub wishes: Wishes,
    /// Folder of journals and reports.
    pub state_dir: PathBuf,
    /// The configuration, which the guard reads as well.
    pub config_file: PathBuf,
    /// What it was started for.
    pub until: Until,
    /// How long the way back stays open with [`Until::Finished`].
    pub window: Duration,
    /// Where status is shown.
    pub board: Arc<Board>,
}

/// How the process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It was told to stop; the run can be taken up again.
    Stopped,
    /// It reached what it was started for.
    Reached,
    /// The run is over.
    Removed,
}

/// Takes a run up and serves it.
///
/// # Errors
///
/// What cannot be tried again, for the edge.
pub async fn serve(start: Start, mut inbox: mpsc::Receiver<Incoming>) -> Result<Ended, Failure> {
    let run = start.preparation.run.clone();
    let book = Arc::clone(&start.preparation.book);
    let ports = start.preparation.ports.clone();

    let Some(mut lease) = take_up(&start, &mut inbox).await? else { return Ok(Ended::Stopped) };
    if book.standing().removed {
        return Err(over(&run));
    }

    let mut unfollowed = Vec::new();
    let mut goal = Goal::new(start.until, start.window);
    // The command that goes on once the streams flow again.
    let mut asked: Option<Asked> = None;
    let mut flowed = false;
    loop {
        let who = asked.as_ref().map(|asked| &asked.responder);
        let waits = flowed.then_some(Waits { who });
        let prepared = match prepare(&start, &unfollowed, &mut inbox, waits).await {
            Ok(Ok(prepared)) => prepared,
            Err(failure) => {
                if let Some(Asked { responder, .. }) = asked {
                    responder.done(Answer::failed(failure.clone()));
                }
                return Err(failure);
            }
            Ok(Err(interrupted)) => {
                if let Some(asked) = asked {
                    asked.leave();
                }
                match interrupted {
                    Interrupted::Stop(responder) => {
                        answer_stop(responder);
                        return Ok(Ended::Stopped);
                    }
                    Interrupted::Remove { finish, responder } => {
                        return remove(&run, &ports, &book, finish, Some(responder)).await;
                    }
                }
            }
        };
        flowed = true;
        start.preparation.progress.say("following changes");
        let live = connect(&start, prepared, &unfollowed).map_err(RunError::into_failure)?;
        start.board.set_live(Arc::clone(&live));
        let background = AbortOnDrop(tokio::spawn({
            let live = Arc::clone(&live);
            async move { live.background().await }
        }));
        let result = attend(&start, &live, asked.take(), &mut inbox, &mut lease, &mut goal).await;
        background.ended().await;
        live.keep();
        start.board.clear_live();
        let next = result?;
        live.note_found()?;
        unfollowed = live.unfollowed();
        // Streams must be closed before their slots can be dropped or read again.
        drop(live);
        match next {
            Next::End(ended) => return Ok(ended),
            Next::Remove { finish, responder } => {
                return remove(&run, &ports, &book, finish, responder).await;
            }
            Next::Again(command) => {
                tracing::info!("all tables are looked at anew");
                asked = command;
            }
        }
    }
}

/// The first steps of every process: alone, no move open, and no removal half done. `None` when it
/// is told to stop.
pub(super) async fn take_up(
    start: &Start,
    inbox: &mut mpsc::Receiver<Incoming>,
) -> Result<Option<Box<dyn Lease>>, Failure> {
    start.preparation.is_of_this_run()?;
    let lease = match take_lease(start, inbox).await? {
        Ok(lease) => lease,
        Err(responder) => {
            answer_stop(responder);
            return Ok(None);
        }
    };
    Ok(go_on(start, inbox).await?.then_some(lease))
}

/// Goes on with a move that has no end, and with a removal half done. `false` when it is told to
/// stop.
pub(super) async fn go_on(
    start: &Start,
    inbox: &mut mpsc::Receiver<Incoming>,
) -> Result<bool, Failure> {
    let Preparation { run, ports, book, progress, .. } = &start.preparation;
    if !interrupted::recover(start, inbox).await? {
        return Ok(false);
    }
    let Some(finish) = book.standing().removing else { return Ok(true) };
    progress.say("removing what the run created on both servers");
    let removal = removal::remove(run, ports, book, finish);
    let (removed, stopped) = interrupted::heard(start, inbox, removal).await?;
    removed.map_err(RunError::into_failure)?;
    Ok(!stopped)
}

struct AbortOnDrop(JoinHandle<()>);

impl AbortOnDrop {
    /// Ends it, and waits until it holds nothing any more.
    async fn ended(mut self) {
        self.0.abort();
        _ = (&mut self.0).await;
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Takes the lease, or says who told us to stop meanwhile.
pub(super) async fn take_lease(
    start: &Start,
    inbox: &mut mpsc::Receiver<Incoming>,
) -> Result<Result<Box<dyn Lease>, Option<Responder>>, Failure> {
    let Preparation { run, ports, progress, .. } = &start.preparation;
    progress.say("taking the lease on green");
    let deadline = Instant::now() + LEASE_WITHIN;
    let mut told = String::new();
    loop {
        // An attempt and the wait behind it, so that commands are heard in both.
        let attempt = async {
            let error = match ports.green.sink.lease(run).await {
                Ok(lease) => return Ok(lease),
                Err(error) => error,
            };
            let again = error.is_transient() || error.code() == Some(TAKEN);
            if Instant::now() <= deadline && again {
                let failure = Failure::from(error);
                if failure.to_string() != told {
                    told = failure.to_string();
                    tracing::warn!("{told}; trying again");
                }
                tokio::time::sleep(Duration::from_millis(300)).await;
                return Err(None);
            }
            Err(Some(error))
        };
        tokio::pin!(attempt);
        loop {
            tokio::select! {
                result = &mut attempt => match result {
                    Ok(lease) => return Ok(Ok(lease)),
                    Err(None) => break,
                    Err(Some(error)) => return Err(error.into()),
                },
                incoming = inbox.recv() => match incoming {
                    Some(Incoming { request: Request::Stop, responder }) => {
                        return Ok(Err(Some(responder)));
                    }
                    Some(other) => early(other, &start.board),
                    None => return Ok(Err(None)),
                },
            }
        }
    }
}

/// Takes the lease again when its session was lost, for instance because green was restarted.
///
/// # Errors
///
/// Another process took it meanwhile: this one must not go on.
async fn keep_lease(lease: &mut dyn Lease) -> Result<(), Failure> {
    match lease.keep().await {
        Err(e) if e.code() == Some(TAKEN) => return Err(e.into()),
        // Green cannot be asked; nobody else can take the lease either.
        Err(e) => tracing::debug!("the lease is not back yet: {e}"),
        Ok(()) => {}
    }
    Ok(())
}

/// Answers a command that comes before the streams flow.
pub(super) fn early(incoming: Incoming, board: &Board) {
    match incoming.request {
        Request::Status => incoming.responder.done(board.answer()),
        other => incoming.responder.done(Answer::failed(
            Failure::new(format!("`{}` is not possible yet: {}", other.name(), board.doing()))
                .code("CUT0507")
                .remedy("wait for `cutover status` to say that changes are followed")
                .exit(Exit::No),
        )),
    }
}

/// Connects both streams in the modes that the owner asks for.
/// Tables that are to be copied for want of which a stream could not go on, and that have no route
/// even now, are given up.
fn connect(
    start: &Start,
    prepared: Prepared,
    unfollowed: &[TableName],
) -> Result<Arc<Live>, RunError> {
    let p = &start.preparation;
    let [handover_from_blue, handover_from_green] = prepared.handover;
    let mapping = Arc::new(prepared.mapping);
    let pause = start.wishes.pause_budget;
    let standing = p.book.standing();
    let kept = Kept {
        run: p.run.clone(),
        path: start.state_dir.join(saved::FILE),
        shapes: shapes(&mapping.pairs, &prepared.definitions, &standing),
    };
    let [of_blue, of_green] = prepared.definitions;
    let of_blue = standing.shared(Side::Blue, of_blue);
    let of_green = standing.shared(Side::Green, of_green);
    let proof = Proof::new(p.ports.clone(), Arc::clone(&mapping), LEDGER_BYTES, pause, kept);
    let proof = Arc::new(proof);
    let owner = standing.owner;
    let routed: HashSet<&TableName> =
        mapping.forward.iter().chain(&*mapping.back).map(|route| &route.source).collect();
    let given_up: Vec<TableName> =
        unfollowed.iter().filter(|table| !routed.contains(table)).cloned().collect();
    let mut pipes = Vec::new();
    for (from, routes, start, handover, known) in [
        (Side::Blue, &mapping.forward, &standing.start, handover_from_blue, of_blue),
        (Side::Green, &mapping.back, &standing.back_start, handover_from_green, of_green),
    ] {
        let primary = Arc::clone(&p.ports.side(from).primary);
        let mode = if owner == from { Mode::Apply } else { Mode::Watch };
        pipes.push(Pipe::start(
            PipeConfig {
                run: p.run.clone(),
                from,
                source: Arc::clone(&p.ports.side(from).source),
                sink: Arc::clone(&p.ports.side(from.other()).sink),
                routes: Arc::clone(routes),
                start: start.clone(),
                selection: p.selection.clone(),
                handover,
                batch_bytes: BATCH_BYTES,
                witness: Arc::clone(&proof) as _,
                definitions: Arc::new(AtStart::new(primary, p.selection.clone(), known)),
                policy: p.policy,
                given_up: given_up.clone(),
            },
            mode,
        ));
    }
    let (Some(back), Some(forward)) = (pipes.pop(), pipes.pop()) else {
        return Err(Failure::new("two streams").into());
    };
    let pipes = Arc::new(Pipes::new(p.run.clone(), p.ports.clone(), forward, back));
    let live = Live::new(Parts {
        run: p.run.clone(),
        selection: p.selection.clone(),
        ports: p.ports.clone(),
        book: Arc::clone(&p.book),
        pipes,
        proof,
        progress: Arc::clone(&p.progress),
        wishes: start.wishes.clone(),
        told: prepared.told,
        policy: p.policy,
        state_dir: start.state_dir.clone(),
        config_file: start.config_file.clone(),
    });
    live.set_moves(moves::ended(&start.state_dir)?);
    Ok(Arc::new(live))
}

enum Next {
    End(Ended),
    /// Prepare and connect again: tables are not as they were, or have to be copied again. A
    /// command that waits for it goes on then.
    Again(Option<Asked>),
    Remove {
        finish: bool,
        responder: Option<Responder>,
    },
}

/// Answers commands while the streams flow.
async fn attend(
    start: &Start,
    live: &Arc<Live>,
    asked: Option<Asked>,
    inbox: &mut mpsc::Receiver<Incoming>,
    lease: &mut Box<dyn Lease>,
    goal: &mut Goal,
) -> Result<Next, Failure> {
    let mut lease_timer = tokio::time::interval(LEASE_EVERY);
    lease_timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut timer = tokio::time::interval(GOAL_EVERY);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The command under way; its end is awaited before anything else that moves is begun.
    let mut work: Option<Work> = asked.map(|asked| begin(live, asked));
    // Who told us to stop in the middle of it.
    let mut stops: Vec<Responder> = Vec::new();
    loop {
        let free = work.is_none();
        let working = async {
            match &mut work {
                // Without a word the task is gone.
                Some(done) => done.await.unwrap_or_default(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            incoming = inbox.recv() => {
                let Some(incoming) = incoming else { return Ok(Next::End(Ended::Stopped)) };
                if !incoming.is_wanted() {
                    continue;
                }
                let Incoming { request, responder } = incoming;
                if request == Request::Status {
                    responder.done(start.board.answer());
                    continue;
                }
                if let Request::Resolve { owner } = request
                    && work.is_some()
                {
                    live.resolve(owner, responder);
                    continue;
                }
                // What waits for an operator waits in the next process as well, and a comparison
                // holds nothing.
                if request == Request::Stop && (live.undecided() || live.compares()) {
                    answer_stop(Some(responder));
                    return Ok(Next::End(Ended::Stopped));
                }
                if work.is_some() && request == Request::Stop {
                    let doing = live.busy().unwrap_or_default();
                    tracing::info!("told to stop: that is done when `{doing}` has ended");
                    stops.push(responder);
                    continue;
                }
                if work.is_some() {
                    busy(&request, responder, live);
                    continue;
                }
                match request {
                    Request::Stop => {
                        answer_stop(Some(responder));
                        return Ok(Next::End(Ended::Stopped));
                    }
                    Request::Finish | Request::Abort => {
                        let finish = request == Request::Finish;
                        match may_end(start, finish) {
                            Ok(()) => {
                                return Ok(Next::Remove { finish, responder: Some(responder) });
                            }
                            Err(failure) => responder.done(Answer::failed(failure)),
                        }
                    }
                    request => work = Some(begin(live, Incoming { request, responder }.into())),
                }
            }
            unfinished = working => {
                work = None;
                goal.ended(live);
                live.set_busy(None);
                if let Some(failure) = live.broken.get() {
                    return Err(failure.clone());
                }
                if !stops.is_empty() {
                    unfinished.into_iter().for_each(Asked::leave);
                    return Ok(stopped(stops));
                }
                if unfinished.is_some() {
                    return Ok(Next::Again(unfinished));
                }
            }
            _ = lease_timer.tick(), if free => keep_lease(&mut **lease).await?,
            _ = timer.tick() => {
                // What waits for an operator waits in the next process as well.
                if !stops.is_empty() && live.undecided() {
                    return Ok(stopped(stops));
                }
                if !free {
                    continue;
                }
                if live.redefined() {
                    return Ok(Next::Again(None));
                }
                match goal.look(live) {
                    Wanted::Nothing => {}
                    Wanted::Reached => return Ok(Next::End(Ended::Reached)),
                    Wanted::Switch => work = Some(begin_unattended(live, Request::Switch)),
                    Wanted::Finish => return Ok(Next::Remove { finish: true, responder: None }),
                }
            }
        }
    }
}

/// A command under way: at its end it says what is to go on when the streams flow again.
type Work = oneshot::Receiver<Option<Asked>>;

fn begin(live: &Arc<Live>, asked: Asked) -> Work {
    let (done, receiver) = oneshot::channel();
    live.set_busy(Some(asked.request.name().to_owned()));
    let live = Arc::clone(live);
    tokio::spawn(async move {
        // The loop may have ended already.
        if let Err(Some(unheard)) = done.send(live.perform(asked).await) {
            unheard.leave();
        }
    });
    receiver
}

fn begin_unattended(live: &Arc<Live>, request: Request) -> Work {
    let (responder, mut lines) = super::socket::local();
    tokio::spawn(async move {
        while let Some(line) = lines.recv().await {
            match line {
                super::command::Line::Progress { text } => tracing::info!("{text}"),
                super::command::Line::Done(answer) => tracing::info!("{}", answer.text),
            }
        }
    });
    begin(live, Incoming { request, responder }.into())
}

fn busy(request: &Request, responder: Responder, live: &Live) {
    let doing = live.busy().unwrap_or_else(|| "a command".into());
    responder.done(Answer::failed(
        Failure::new(format!("`{}` has to wait: `{doing}` is under way", request.name()))
            .code("CUT0507")
            .remedy("ask again when it is done; `cutover status` shows it")
            .exit(Exit::No),
    ));
}

/// The end of a process that was told to stop.
fn stopped(stops: Vec<Responder>) -> Next {
    stops.into_iter().for_each(|responder| answer_stop(Some(responder)));
    Next::End(Ended::Stopped)
}

pub(super) fn answer_stop(responder: Option<Responder>) {
    if let Some(responder) = responder {
        responder.done(Answer::new(
            Exit::Done,
            json!({ "stopped": true }),
            "stopped; `cutover run` takes it up again",
        ));
    }
}
