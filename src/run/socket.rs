//! The control socket: how commands reach the running process.
//!
//! A Unix socket `control.sock` in `state_dir`, mode 0600. A lock beside it says whether somebody
//! serves it, so a socket left behind by a crash is replaced and a living one never is.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    os::{
        fd::AsRawFd,
        unix::{
            ffi::OsStrExt,
            fs::{OpenOptionsExt, PermissionsExt},
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{mpsc, watch},
};

use super::command::{Answer, Line, Request};
use crate::error::{Exit, Explain, Failure};

/// Name of the socket in the state folder.
pub const SOCKET: &str = "control.sock";
/// Name of the lock in the state folder.
pub const LOCK: &str = "control.lock";

/// `sockaddr_un` holds 108 bytes with the final zero.
const LONGEST_PATH: usize = 107;
/// A request is a few names; more than this is not one of ours.
const LONGEST_REQUEST: u64 = 1 << 20;
/// Somebody who connects and says nothing must not hold a task for ever.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why the control socket could not be used.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Nobody serves the socket.
    #[error("no `cutover run` is working in {}", .state_dir.display())]
    Nobody {
        /// Where we looked.
        state_dir: PathBuf,
    },
    /// Another process serves it.
    #[error("another `cutover run` is working in {}", .state_dir.display())]
    Taken {
        /// Where.
        state_dir: PathBuf,
    },
    /// The state folder cannot be used.
    #[error("the control socket in {} cannot be used", .state_dir.display())]
    Unusable {
        /// Where.
        state_dir: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The process went away, or stopped talking, before its final answer.
    #[error("`cutover run` gave no answer to `{request}`")]
    NoAnswer {
        /// What was asked.
        request: &'static str,
        /// What the system said.
        #[source]
        source: Option<io::Error>,
    },
    /// The other side speaks another version of the protocol.
    #[error("`cutover run` answered in a form this version does not know")]
    Unknown(#[source] serde_json::Error),
}

impl Explain for SocketError {
    fn code(&self) -> Option<&str> {
        Some(match self {
            Self::Nobody { .. } => "CUT0007",
            Self::Taken { .. } => "CUT0008",
            Self::Unusable { .. } => "CUT0009",
            Self::NoAnswer { .. } | Self::Unknown(_) => "CUT0020",
        })
    }

    fn remedy(&self) -> Option<String> {
        Some(match self {
            Self::Nobody { .. } => {
                "start it with `cutover run`; it resumes where it stopped, then ask again".into()
            }
            Self::Taken { .. } => {
                "use the running process, or stop it before starting another".into()
            }
            Self::Unusable { .. } => {
                "let this user own and write `state_dir`, on a local file system".into()
            }
            Self::NoAnswer { .. } => {
                "ask `cutover status`; if the process is gone, `cutover run` finishes or undoes \
                 what was under way"
                    .into()
            }
            Self::Unknown(_) => {
                "use the version of the program that the run was started with".into()
            }
        })
    }
}

/// Result of this room.
pub type Result<T> = std::result::Result<T, SocketError>;

/// A request that arrived, and the way to answer it.
#[derive(Debug)]
pub struct Incoming {
    /// What was asked.
    pub request: Request,
    /// Who waits for the answer.
    pub responder: Responder,
}

impl Incoming {
    /// Somebody waits for the answer still. Whoever has left does not want a command any more that
    /// was not begun; a stop is wanted by whoever sent the signal.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.request == Request::Stop || !self.responder.is_closed()
    }
}

/// Answers one request. Dropped without [`Responder::done`], the asker learns that no answer came.
#[derive(Debug)]
pub struct Responder {
    lines: mpsc::UnboundedSender<Line>,
}

impl Responder {
    /// Tells the asker what happens; never waits. An asker who left does not matter: a command
    /// that has begun goes on.
    pub fn progress(&self, text: impl Into<String>) {
        self.send(Line::Progress { text: text.into() });
    }

    /// Gives the final answer before the command has ended: it goes on without the asker.
    pub fn early(&self, answer: Answer) {
        self.send(Line::Done(answer));
    }

    /// Gives the final answer.
    pub fn done(self, answer: Answer) {
        self.send(Line::Done(answer));
    }

    /// Whether the asker has left.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.lines.is_closed()
    }

    /// Waits until the asker has left.
    pub async fn left(&self) {
        self.lines.closed().await;
    }

    fn send(&self, line: Line) {
        if self.lines.send(line).is_err() {
            tracing::debug!("whoever asked has left before the answer");
        }
    }
}

/// A responder without a socket, for callers inside the process, and the lines it receives.
#[must_use]
pub fn local() -> (Responder, mpsc::UnboundedReceiver<Line>) {
    let (lines, rx) = mpsc::unbounded_channel();
    (Responder { lines }, rx)
}

/// The bound socket. Dropping it removes the socket; a crash leaves it for the next one.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    /// Connections that are being answered.
    open: watch::Sender<usize>,
    // Held for as long as the server lives; the system gives it back when the process dies.
    _lock: File,
}

impl Server {
    /// Creates `state_dir` if need be (mode 0700) and binds the socket in it (mode 0600).
    ///
    /// # Errors
    ///
    /// [`SocketError::Taken`] when a living process serves it, [`SocketError::Unusable`] when the
    /// folder cannot be written.
    pub fn bind(state_dir: &Path) -> Result<Self> {
        let unusable =
            |source| SocketError::Unusable { state_dir: state_dir.to_path_buf(), source };
        make_private(state_dir).map_err(unusable)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(state_dir.join(LOCK))
            .map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(SocketError::Taken { state_dir: state_dir.to_path_buf() });
            }
            Err(TryLockError::Error(source)) => return Err(unusable(source)),
        }
        let path = state_dir.join(SOCKET);
        // The lock is ours; a socket that still answers means a file system without locks.
        if Reach::of(state_dir)
            .and_then(|r| std::os::unix::net::UnixStream::connect(r.path(SOCKET)))
            .is_ok()
        {
            return Err(SocketError::Taken { state_dir: state_dir.to_path_buf() });
        }
        // Bound under another name in a folder only we can enter, made private, then renamed over
        // what a crash left: nobody can connect before the mode is set.
        let cradle = tempdir(state_dir).map_err(unusable)?;
        let bound = (|| {
            let listener =
                std::os::unix::net::UnixListener::bind(Reach::of(&cradle)?.path(SOCKET))?;
            std::fs::set_permissions(cradle.join(SOCKET), std::fs::Permissions::from_mode(0o600))?;
            std::fs::rename(cradle.join(SOCKET), &path)?;
            listener.set_nonblocking(true)?;
            UnixListener::from_std(listener)
        })();
        let removed = std::fs::remove_dir_all(&cradle);
        let listener = bound.map_err(unusable)?;
        removed.map_err(unusable)?;
        Ok(Self { listener, path, open: watch::Sender::new(0), _lock: lock })
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Hands every request to `inbox` until the receiver is dropped or the future is. Each asker
    /// has a task of its own, so a slow one holds nobody up.
    pub async fn serve(&self, inbox: mpsc::Sender<Incoming>) {
        loop {
            tokio::select! {
                () = inbox.closed() => return,
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let open = Open::new(&self.open);
                        let inbox = inbox.clone();
                        tokio::spawn(async move {
                            answer(stream, inbox).await;
                            drop(open);
                        });
                    }
                    Err(error) => {
                        // Out of file descriptors, most likely; accept would spin.
                        tracing::warn!(%error, "the control socket accepts no connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
    }
}

impl Server {
    /// Waits until everybody who asked has the answer that was given, at most `within`: a process
    /// that ends right after [`Responder::done`] would take the last line with it.
    pub async fn drain(&self, within: Duration) {
        let mut open = self.open.subscribe();
        let drained = tokio::time::timeout(within, open.wait_for(|n| *n == 0)).await.is_ok();
        if !drained {
            tracing::debug!("somebody does not read the answer");
        }
    }
}

/// Counts one connection for as long as it lives.
struct Open(watch::Sender<usize>);

impl Open {
    fn new(open: &watch::Sender<usize>) -> Self {
        open.send_modify(|n| *n += 1);
        Self(open.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n -= 1);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, "the control socket was gone already");
        }
    }
}

/// Asks the running process and waits for its final answer; `progress` sees every line before.
///
/// `within` bounds the silence between two lines, not the whole command; `None` waits for ever.
///
/// # Errors
///
/// [`SocketError::Nobody`] when no process serves the socket, [`SocketError::NoAnswer`] when it
/// went away or stayed silent.
pub async fn ask(
    state_dir: &Path,
    request: &Request,
    within: Option<Duration>,
    mut progress: impl FnMut(&str),
) -> Result<Answer> {
    let mut stream = connect(state_dir).await?;
    let gone = |source| SocketError::NoAnswer { request: request.name(), source };
    let mut line = serde_json::to_vec(request).map_err(SocketError::Unknown)?;
    line.push(b'\n');
    stream.write_all(&line).await.map_err(|e| gone(Some(e)))?;
    let mut lines = BufReader::new(stream).lines();
    loop {
        let next = match within {
            Some(limit) => tokio::time::timeout(limit, lines.next_line())
                .await
                .map_err(|_| gone(Some(io::ErrorKind::TimedOut.into())))?,
            None => lines.next_line().await,
        };
        let text = next.map_err(|e| gone(Some(e)))?.ok_or_else(|| gone(None))?;
        match serde_json::from_str(&text).map_err(SocketError::Unknown)? {
            Line::Progress { text } => progress(&text),
            Line::Done(answer) => return Ok(answer),
        }
    }
}

async fn connect(state_dir: &Path) -> Result<UnixStream> {
    let failed = |source: io::Error| {
        let state_dir = state_dir.to_path_buf();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                SocketError::Nobody { state_dir }
            }
            _ => SocketError::Unusable { state_dir, source },
        }
    };
    let reach = Reach::of(state_dir).map_err(failed)?;
    UnixStream::connect(reach.path(SOCKET)).await.map_err(failed)
}

/// One connection: read a request, hand it over, write lines until the final one.
async fn answer(stream: UnixStream, inbox: mpsc::Sender<Incoming>) {
    let (read, mut write) = stream.into_split();
    let mut text = String::new();
    let mut read = BufReader::new(read.take(LONGEST_REQUEST));
    match tokio::time::timeout(PATIENCE, read.read_line(&mut text)).await {
        Ok(Ok(n)) if n > 0 => {}
        // Somebody looked whether we live, or left.
        _ => return,
    }
    let (responder, mut lines) = local();
    match serde_json::from_str(&text) {
        Ok(request) => {
            // A closed inbox drops the responder: the asker learns that no answer comes.
            if inbox.send(Incoming { request, responder }).await.is_err() {
                tracing::debug!("a request arrived while the run was ending");
            }
        }
        Err(error) => responder.done(Answer::failed(
            Failure::new("`cutover run` does not know this request")
                .code("CUT0020")
                .caused_by(&error)
                .remedy("use the version of the program that the run was started with")
                .exit(Exit::Usage),
        )),
    }
    loop {
        let line = tokio::select! {
            line = lines.recv() => line,
            // The asker sends nothing more; an end of file means that it left.
            _ = read.read_u8() => return,
        };
        let Some(line) = line else { return };
        let last = matches!(line, Line::Done(_));
        let Ok(mut bytes) = serde_json::to_vec(&line) else {
            tracing::error!("an answer could not be written as JSON");
            return;
        };
        bytes.push(b'\n');
        if write.write_all(&bytes).await.is_err() || last {
            return;
        }
    }
}

/// A way to name a socket in a folder whose path may be too long for a socket address: through
/// the folder's open file descriptor.
struct Reach {
    folder: PathBuf,
    open: Option<File>,
}

impl Reach {
    fn of(folder: &Path) -> io::Result<Self> {
        let longest = folder.as_os_str().as_bytes().len() + 1 + SOCKET.len();
        let open = (longest > LONGEST_PATH).then(|| File::open(folder)).transpose()?;
        Ok(Self { folder: folder.to_path_buf(), open })
    }

    fn path(&self, name: &str) -> PathBuf {
        match &self.open {
            Some(open) => PathBuf::from(format!("/proc/self/fd/{}/{name}", open.as_raw_fd())),
            None => self.folder.join(name),
        }
    }
}

/// Creates a folder that only its owner can enter; an existing one keeps its mode.
fn make_private(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// A new folder in `state_dir`; one that a crash left is taken over, since we hold the lock.
fn tempdir(state_dir: &Path) -> io::Result<PathBuf> {
    let path = state_dir.join(".control");
    match std::fs::remove_dir_all(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => make_private(&path)?,
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn scratch() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    /// Serves until the test ends; answers `status` with the number of requests so far.
    fn serve(dir: &Path) -> tokio::task::JoinHandle<()> {
        let server = Server::bind(dir).unwrap();
        tokio::spawn(async move {
            let (tx, mut rx) = mpsc::channel(4);
            let mut served = 0;
            let answers = async {
                while let Some(Incoming { request, responder }) = rx.recv().await {
                    served += 1;
                    match request {
                        Request::Stop => drop(responder),
                        _ => {
                            responder.progress("one");
                            responder.progress("two");
                            responder.done(Answer::new(Exit::Done, json!(served), "fine"));
                        }
                    }
                }
            };
            tokio::join!(server.serve(tx), answers);
        })
    }

    #[tokio::test]
    async fn progress_then_one_answer() {
        let dir = scratch();
        let server = serve(dir.path());
        for n in 1..=3 {
            let mut seen = Vec::new();
            let answer =
                ask(dir.path(), &Request::Status, None, |t| seen.push(t.to_owned())).await.unwrap();
            assert_eq!(answer, Answer::new(Exit::Done, json!(n), "fine"));
            assert_eq!(seen, ["one", "two"]);
        }
        server.abort();
    }

    #[tokio::test]
    async fn a_dropped_responder_is_no_answer_and_not_a_success() {
        let dir = scratch();
        let server = serve(dir.path());
        let error = ask(dir.path(), &Request::Stop, None, |_| {}).await.unwrap_err();
        assert!(matches!(error, SocketError::NoAnswer { request: "stop", .. }), "{error:?}");
        server.abort();
    }

    #[tokio::test]
    async fn nobody_is_told_as_nobody() {
        let dir = scratch();
        let error = ask(dir.path(), &Request::Status, None, |_| {}).await.unwrap_err();
        assert!(matches!(error, SocketError::Nobody { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn a_second_server_is_refused_and_a_stale_socket_is_replaced() {
        let dir = scratch();
        let first = Server::bind(dir.path()).unwrap();
        assert!(matches!(Server::bind(dir.path()), Err(SocketError::Taken { .. })));
        drop(first);
        // What a crash leaves: a socket file that nobody serves.
        drop(std::os::unix::net::UnixListener::bind(dir.path().join(SOCKET)).unwrap());
        let error = ask(dir.path(), &Request::Status, None, |_| {}).await.unwrap_err();
        assert!(matches!(error, SocketError::Nobody { .. }), "{error:?}");
        let second = Server::bind(dir.path()).unwrap();
        let mode = std::fs::metadata(second.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(second);
        assert!(!dir.path().join(SOCKET).exists());
    }

    #[tokio::test]
    async fn a_path_longer_than_a_socket_address_works() {
        let dir = scratch();
        let deep = dir.path().join("a".repeat(120)).join("state");
        let server = serve(&deep);
        let answer = ask(&deep, &Request::Status, None, |_| {}).await.unwrap();
        assert_eq!(answer.value, json!(1));
        server.abort();
    }

    #[tokio::test]
    async fn the_last_line_is_sent_before_the_process_goes() {
        let dir = scratch();
        let server = Server::bind(dir.path()).unwrap();
        let (tx, mut rx) = mpsc::channel(4);
        let path = dir.path().to_path_buf();
        let asker = tokio::spawn(async move { ask(&path, &Request::Finish, None, |_| {}).await });
        tokio::select! {
            () = server.serve(tx) => panic!("the inbox is open"),
            incoming = rx.recv() => {
                let text = "x".repeat(1 << 20);
                incoming.unwrap().responder.done(Answer::new(Exit::Done, json!(null), text));
            }
        }
        server.drain(Duration::from_secs(10)).await;
        assert_eq!(*server.open.borrow(), 0);
        assert_eq!(asker.await.unwrap().unwrap().text.len(), 1 << 20);
    }

    #[tokio::test]
    async fn an_unknown_request_is_answered() {
        let dir = scratch();
        let server = serve(dir.path());
        let mut stream = connect(dir.path()).await.unwrap();
        stream.write_all(b"{\"request\":\"drop_everything\"}\n").await.unwrap();
        let text = BufReader::new(stream).lines().next_line().await.unwrap().unwrap();
        let Line::Done(answer) = serde_json::from_str(&text).unwrap() else { panic!("{text}") };
        assert_eq!(answer.exit, 2);
        assert_eq!(answer.failure.unwrap().code.as_deref(), Some("CUT0020"));
        server.abort();
    }
}
