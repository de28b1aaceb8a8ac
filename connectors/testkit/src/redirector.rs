//! A small device with real sockets: clients in front, two ledgers behind, a console beside.
//!
//! The protocol is lines. Clients say `write`, or `open` and later `close`; the answer to a
//! finished write is the side that has it. The console knows `observe`, `pause MILLISECONDS` and
//! `point SIDE`.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use cutover_core::model::side::Side;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

use crate::{Gate, Pass, faults::lock};

/// A database that only counts.
#[derive(Debug)]
pub struct Ledger {
    address: SocketAddr,
    counts: Arc<Counts>,
    serving: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Counts {
    written: AtomicU64,
    in_flight: AtomicUsize,
}

impl Ledger {
    /// Starts the ledger of a side on a free port.
    ///
    /// # Errors
    ///
    /// When no port is to be had.
    pub async fn start(side: Side) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let counts: Arc<Counts> = Arc::default();
        let shared = Arc::clone(&counts);
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(keep(LineClient::over(stream), side, Arc::clone(&shared)));
            }
        });
        Ok(Self { address, counts, serving })
    }

    /// Writes that were finished.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.counts.written.load(Ordering::SeqCst)
    }

    /// Writes that have begun and are not finished.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.counts.in_flight.load(Ordering::SeqCst)
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn keep(mut client: LineClient, side: Side, counts: Arc<Counts>) {
    while let Ok(line) = client.read().await {
        let answer = match &*line {
            "open" => {
                counts.in_flight.fetch_add(1, Ordering::SeqCst);
                "open"
            }
            "close" => {
                counts.in_flight.fetch_sub(1, Ordering::SeqCst);
                counts.written.fetch_add(1, Ordering::SeqCst);
                side.as_str()
            }
            "write" => {
                counts.in_flight.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                counts.written.fetch_add(1, Ordering::SeqCst);
                counts.in_flight.fetch_sub(1, Ordering::SeqCst);
                side.as_str()
            }
            _ => "unknown",
        };
        if client.send(answer).await.is_err() {
            return;
        }
    }
}

/// The device. Its gate can be driven from the console or directly.
#[derive(Debug)]
pub struct Redirector {
    gate: Arc<Gate>,
    clients: SocketAddr,
    console: SocketAddr,
    serving: JoinHandle<()>,
    listening: Arc<Mutex<Option<JoinHandle<()>>>>,
    frozen: watch::Sender<bool>,
}

impl Redirector {
    /// Starts in front of two ledgers, pointing at blue.
    ///
    /// # Errors
    ///
    /// When no port is to be had.
    pub async fn start(blue: &Ledger, green: &Ledger) -> io::Result<Self> {
        let gate = Gate::new(Side::Blue);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let clients = listener.local_addr()?;
        let (shared, ledgers) = (Arc::clone(&gate), (blue.address, green.address));
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(forward(LineClient::over(stream), Arc::clone(&shared), ledgers));
            }
        });
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let console = listener.local_addr()?;
        let device = Self {
            gate,
            clients,
            console,
            serving,
            listening: Arc::default(),
            frozen: watch::Sender::new(false),
        };
        device.listen(listener);
        Ok(device)
    }

    /// What decides about writes.
    #[must_use]
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Where clients connect.
    #[must_use]
    pub fn clients(&self) -> SocketAddr {
        self.clients
    }

    /// Where the console listens.
    #[must_use]
    pub fn console(&self) -> SocketAddr {
        self.console
    }

    /// Closes the console; clients go on.
    pub fn close_console(&self) {
        if let Some(listening) = lock(&self.listening).take() {
            listening.abort();
        }
    }

    /// Opens the console again on the same port.
    ///
    /// # Errors
    ///
    /// When somebody else has taken the port.
    pub async fn open_console(&self) -> io::Result<()> {
        self.listen(TcpListener::bind(self.console).await?);
        Ok(())
    }

    /// While frozen, the console takes orders, and carries them out when it is thawed.
    pub fn freeze(&self, on: bool) {
        self.frozen.send_replace(on);
    }

    /// Ready while the device is not frozen.
    pub async fn awake(&self) {
        awake(self.frozen.subscribe()).await;
    }

    fn listen(&self, listener: TcpListener) {
        let (gate, frozen) = (Arc::clone(&self.gate), self.frozen.subscribe());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(LineClient::over(stream), Arc::clone(&gate), frozen.clone()));
            }
        });
        *lock(&self.listening) = Some(task);
    }
}

impl Drop for Redirector {
    fn drop(&mut self) {
        self.close_console();
        self.serving.abort();
    }
}

async fn awake(mut frozen: watch::Receiver<bool>) {
    // An error means that the device is gone, and then nothing is frozen.
    drop(frozen.wait_for(|frozen| !frozen).await);
}

/// One client: each write goes through the gate to the ledger of that moment.
async fn forward(mut client: LineClient, gate: Arc<Gate>, ledgers: (SocketAddr, SocketAddr)) {
    let mut behind: Option<(Side, LineClient)> = None;
    let mut pass: Option<Pass> = None;
    while let Ok(line) = client.read().await {
        let current = match pass.take() {
            Some(open) => open,
            None => gate.enter().await,
        };
        let side = current.side();
        if behind.as_ref().is_none_or(|(known, _)| *known != side) {
            let address = if side == Side::Blue { ledgers.0 } else { ledgers.1 };
            let Ok(ledger) = LineClient::connect(address).await else { return };
            behind = Some((side, ledger));
        }
        let Some((_, ledger)) = &mut behind else { return };
        let Ok(answer) = ledger.ask(&line).await else { return };
        if answer == "open" {
            pass = Some(current);
        } else {
            drop(current);
        }
        if client.send(&answer).await.is_err() {
            return;
        }
    }
}

/// One session of the console.
async fn serve(mut console: LineClient, gate: Arc<Gate>, frozen: watch::Receiver<bool>) {
    while let Ok(line) = console.read().await {
        awake(frozen.clone()).await;
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = match words[..] {
            ["observe"] => {
                let (side, paused) = gate.observe();
                format!("{side} {}", if paused { "paused" } else { "flowing" })
            }
            ["pause", limit] => match limit.parse() {
                Ok(limit) if gate.pause(Duration::from_millis(limit)).await => "done".to_owned(),
                Ok(_) => "refused a write stays in flight".to_owned(),
                Err(_) => "refused not a number".to_owned(),
            },
            ["point", side @ ("blue" | "green")] => {
                gate.point_at(if side == "blue" { Side::Blue } else { Side::Green });
                "done".to_owned()
            }
            _ => "refused unknown order".to_owned(),
        };
        if console.send(&answer).await.is_err() {
            return;
        }
    }
}

/// A connection that speaks lines.
#[derive(Debug)]
pub struct LineClient {
    read: Lines<BufReader<OwnedReadHalf>>,
    write: OwnedWriteHalf,
}

impl LineClient {
    /// Connects.
    ///
    /// # Errors
    ///
    /// When nobody listens.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        Ok(Self::over(TcpStream::connect(address).await?))
    }

    fn over(stream: TcpStream) -> Self {
        // Lines are short and wait for answers; without it nothing breaks.
        drop(stream.set_nodelay(true));
        let (read, write) = stream.into_split();
        Self { read: BufReader::new(read).lines(), write }
    }

    /// Sends a line and reads one.
    ///
    /// # Errors
    ///
    /// When the connection ends.
    pub async fn ask(&mut self, line: &str) -> io::Result<String> {
        self.send(line).await?;
        self.read().await
    }

    async fn send(&mut self, line: &str) -> io::Result<()> {
        self.write.write_all(format!("{line}\n").as_bytes()).await
    }

    async fn read(&mut self) -> io::Result<String> {
        self.read.next_line().await?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}
