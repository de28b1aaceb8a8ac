//! A TCP proxy that spoils connections on order, while they run.
//!
//! Each direction has its own [`Link`] settings; whole connections can be cut, reset or half
//! closed, and new ones refused. It understands no protocol.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{broadcast, mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// How bytes of one direction travel. The default spoils nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Link {
    /// Every piece arrives this much later; later pieces are not delayed twice.
    pub delay: Duration,
    /// At most so many bytes per second.
    pub bytes_per_second: Option<u64>,
    /// Written in pieces of at most so many bytes.
    pub slice: Option<usize>,
    /// Nothing is read, so the sender's buffers fill up; lifted, everything arrives.
    pub stalled: bool,
    /// Everything is read and thrown away.
    pub black_hole: bool,
    /// After so many more bytes of a connection that opens later, that connection is cut.
    pub cut_after: Option<u64>,
}

/// A proxy in front of one server. Everything ends when it is dropped.
#[derive(Debug)]
pub struct FaultProxy {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    up: watch::Sender<Link>,
    down: watch::Sender<Link>,
    orders: broadcast::Sender<Order>,
    refusing: AtomicBool,
    open: AtomicUsize,
    passed_up: AtomicU64,
    passed_down: AtomicU64,
}

/// What all open connections are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Cut,
    Reset,
    Forget,
    Abandon,
    HalfClose(Direction),
}

/// How one direction of a connection ended.
enum End {
    /// The sender is done, or was declared so.
    Closed,
    Cut,
    Reset,
    Forgotten,
    Abandoned,
}

impl FaultProxy {
    /// Listens on a free port of 127.0.0.1 and passes everything on to `server`.
    ///
    /// # Errors
    ///
    /// When no port is to be had.
    pub async fn start(server: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            server,
            up: watch::Sender::default(),
            down: watch::Sender::default(),
            orders: broadcast::Sender::new(16),
            refusing: AtomicBool::new(false),
            open: AtomicUsize::new(0),
            passed_up: AtomicU64::new(0),
            passed_down: AtomicU64::new(0),
        });
        let accepting = begin(listener, Arc::clone(&shared));
        Ok(Self { shared, address, accepting })
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port of [`FaultProxy::address`].
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Changes how bytes of a direction travel, at once and for all connections.
    pub fn set(&self, direction: Direction, change: impl FnOnce(&mut Link)) {
        self.shared.link(direction).send_modify(change);
    }

    /// Changes both directions.
    pub fn set_both(&self, change: impl Fn(&mut Link)) {
        self.set(Direction::Up, &change);
        self.set(Direction::Down, &change);
    }

    /// Spoils nothing any more; connections that were cut stay so.
    pub fn heal(&self) {
        self.set_both(|link| *link = Link::default());
        self.refuse(false);
    }

    /// Closes every open connection towards both ends, in order.
    pub fn cut(&self) {
        self.order(Order::Cut);
    }

    /// Resets every open connection towards both ends: what is on its way is lost.
    pub fn reset(&self) {
        self.order(Order::Reset);
    }

    /// Forgets every open connection, as a balancer does that lost its table: the server's end is
    /// closed, and whoever is at the other one hears nothing any more, not even an end.
    pub fn forget(&self) {
        self.order(Order::Forget);
    }

    /// Abandons every open connection, as a host does that goes away without a word: the client's
    /// end is closed, and the server hears and is rid of nothing any more, not even an end.
    pub fn abandon(&self) {
        self.order(Order::Abandon);
    }

    /// Tells the receiver of a direction that its sender is done; the other direction goes on.
    pub fn half_close(&self, direction: Direction) {
        self.order(Order::HalfClose(direction));
    }

    /// Resets new connections as soon as they are made.
    pub fn refuse(&self, on: bool) {
        self.shared.refusing.store(on, Ordering::SeqCst);
    }

    /// Connections that are open now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Bytes that were passed on in a direction, of all connections.
    #[must_use]
    pub fn passed(&self, direction: Direction) -> u64 {
        self.shared.passed(direction).load(Ordering::SeqCst)
    }

    fn order(&self, order: Order) {
        // Nobody listens when no connection is open, which is fine.
        drop(self.shared.orders.send(order));
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.order(Order::Cut);
    }
}

impl Shared {
    fn link(&self, direction: Direction) -> &watch::Sender<Link> {
        match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }

    fn passed(&self, direction: Direction) -> &AtomicU64 {
        match direction {
            Direction::Up => &self.passed_up,
            Direction::Down => &self.passed_down,
        }
    }
}

/// Not `async`: what an `async` function does is built with whoever awaits it, and so without the
/// optimisation that this crate is built with. Everything that carries begins here.
#[inline(never)]
fn begin(listener: TcpListener, shared: Arc<Shared>) -> JoinHandle<()> {
    tokio::spawn(accept(listener, shared))
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        if shared.refusing.load(Ordering::SeqCst) {
            drop(client.set_zero_linger());
            continue;
        }
        tokio::spawn(connection(client, Arc::clone(&shared)));
    }
}

async fn connection(client: TcpStream, shared: Arc<Shared>) {
    // Before connecting, so that no order is missed.
    let (up_orders, down_orders) = (shared.orders.subscribe(), shared.orders.subscribe());
    let mut last_orders = shared.orders.subscribe();
    let Ok(server) = TcpStream::connect(shared.server).await else {
        drop(client.set_zero_linger());
        return;
    };
    // Small pieces must arrive as they are written.
    drop((client.set_nodelay(true), server.set_nodelay(true)));
    shared.open.fetch_add(1, Ordering::SeqCst);
    let (from_client, mut to_client) = client.into_split();
    let (from_server, mut to_server) = server.into_split();
    let end = {
        let up = carry(Direction::Up, &shared, from_client, &mut to_server, up_orders);
        let down = carry(Direction::Down, &shared, from_server, &mut to_client, down_orders);
        tokio::pin!(up, down);
        let (mut up_done, mut down_done) = (false, false);
        loop {
            let end = tokio::select! {
                end = &mut up, if !up_done => { up_done = true; end }
                end = &mut down, if !down_done => { down_done = true; end }
            };
            match end {
                End::Closed if up_done && down_done => break End::Closed,
                End::Closed => {}
                other => break other,
            }
        }
    };
    if matches!(end, End::Forgotten | End::Abandoned) {
        // What is left of the other one keeps its end open, and nobody reads it.
        drop(if matches!(end, End::Forgotten) { to_server } else { to_client });
        while !matches!(ended(&mut last_orders).await, End::Cut | End::Reset) {}
    } else if matches!(end, End::Reset) {
        for half in [to_client, to_server] {
            drop(half.as_ref().set_zero_linger());
            // Its drop would say goodbye in an orderly way.
            half.forget();
        }
    }
    shared.open.fetch_sub(1, Ordering::SeqCst);
}

/// Carries one direction until its sender is done or an order ends it.
async fn carry(
    direction: Direction,
    shared: &Shared,
    from: OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    mut orders: broadcast::Receiver<Order>,
) -> End {
    let (send, receive) = mpsc::channel(256);
    let halves = orders.resubscribe();
    let work = async {
        let reading = read(direction, shared.link(direction).subscribe(), from, send, halves);
        let writing = write(direction, shared, to, receive);
        let (end, written) = tokio::join!(reading, writing);
        if written.is_err() { End::Reset } else { end }
    };
    tokio::select! {
        end = work => end,
        end = ended(&mut orders) => end,
    }
}

/// A piece that waits for its time.
struct Piece {
    arrived: Instant,
    bytes: Vec<u8>,
}

/// Takes pieces from the sender and notes when they came.
async fn read(
    direction: Direction,
    mut link: watch::Receiver<Link>,
    mut from: OwnedReadHalf,
    send: mpsc::Sender<Piece>,
    mut orders: broadcast::Receiver<Order>,
) -> End {
    let mut budget = link.borrow().cut_after;
    let mut chunk = vec![0; 16 * 1024];
    loop {
        let stalled = link.borrow_and_update().stalled;
        let length = tokio::select! {
            order = orders.recv() => match order {
                Ok(Order::HalfClose(which)) if which == direction => return End::Closed,
                _ => continue,
            },
            _ = link.changed() => continue,
            read = from.read(&mut chunk), if !stalled => match read {
                Ok(0) => return End::Closed,
                Ok(length) => length,
                Err(_) => return End::Reset,
            },
        };
        if link.borrow().black_hole {
            continue;
        }
        let mut bytes = chunk[..length].to_vec();
        if let Some(left) = &mut budget {
            bytes.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= bytes.len() as u64;
        }
        let piece = Piece { arrived: Instant::now(), bytes };
        if send.send(piece).await.is_err() || budget == Some(0) {
            return End::Cut;
        }
    }
}

/// Hands pieces to the receiver as the link says, and tells it when there are no more.
async fn write(
    direction: Direction,
    shared: &Shared,
    to: &mut OwnedWriteHalf,
    mut receive: mpsc::Receiver<Piece>,
) -> io::Result<()> {
    let link = shared.link(direction).subscribe();
    let now = || *link.borrow();
    while let Some(piece) = receive.recv().await {
        if !now().delay.is_zero() {
            sleep_until(piece.arrived + now().delay).await;
        }
        let size = now().slice.unwrap_or(usize::MAX).max(1);
        for part in piece.bytes.chunks(size) {
            if let Some(rate) = now().bytes_per_second {
                sleep(Duration::from_secs_f64(part.len() as f64 / rate.max(1) as f64)).await;
            }
            // Before, so that whoever has received it finds it counted.
            shared.passed(direction).fetch_add(part.len() as u64, Ordering::SeqCst);
            to.write_all(part).await?;
            // Gives the receiver a chance to see the parts apart.
            if size < piece.bytes.len() {
                tokio::task::yield_now().await;
            }
        }
    }
    to.shutdown().await
}

/// The next order that ends a whole connection.
async fn ended(orders: &mut broadcast::Receiver<Order>) -> End {
    loop {
        match orders.recv().await {
            Ok(Order::Cut) | Err(broadcast::error::RecvError::Closed) => return End::Cut,
            Ok(Order::Reset) => return End::Reset,
            Ok(Order::Forget) => return End::Forgotten,
            Ok(Order::Abandon) => return End::Abandoned,
            Ok(Order::HalfClose(_)) | Err(broadcast::error::RecvError::Lagged(_)) => {}
        }
    }
}
