//! Every fault of the proxy, seen by a client and an echoing server.

use std::{io::ErrorKind, time::Duration};

use cutover_testkit::{Direction, FaultProxy, wait_until, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{Instant, timeout},
};

const PATIENCE: Duration = Duration::from_secs(60);
/// How long to watch that nothing happens.
const WATCH: Duration = Duration::from_millis(60);

/// What the server saw of a connection.
#[derive(Debug, PartialEq)]
enum Seen {
    Bytes(usize),
    End,
    Error(ErrorKind),
}

/// A server that echoes, and tells what it reads piece by piece.
async fn echo() -> (FaultProxy, mpsc::UnboundedReceiver<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, seen) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let tell = tell.clone();
            tokio::spawn(async move {
                let mut chunk = vec![0; 64 * 1024];
                loop {
                    let what = match stream.read(&mut chunk).await {
                        Ok(0) => Seen::End,
                        Ok(length) => Seen::Bytes(length),
                        Err(error) => Seen::Error(error.kind()),
                    };
                    let length = if let Seen::Bytes(length) = what { length } else { 0 };
                    if tell.send(what).is_err() || length == 0 {
                        return;
                    }
                    if stream.write_all(&chunk[..length]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (FaultProxy::start(address).await.unwrap(), seen)
}

async fn connect(proxy: &FaultProxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.address()).await.unwrap();
    wait_until("the proxy has connected", PATIENCE, async || proxy.connections() > 0).await;
    stream
}

async fn ask(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
    let mut back = vec![0; bytes.len()];
    within("the echo", PATIENCE, stream.read_exact(&mut back)).await.unwrap();
    assert_eq!(back, bytes);
}

#[tokio::test]
async fn without_faults_bytes_pass_both_ways() {
    let (proxy, _seen) = echo().await;
    let mut client = connect(&proxy).await;
    let big: Vec<u8> = (0..300_000_u32).map(|i| i as u8).collect();
    let (mut read, mut write) = client.split();
    let mut back = vec![0; big.len()];
    let both = async { tokio::join!(write.write_all(&big), read.read_exact(&mut back)) };
    let (sent, received) = within("a large echo", PATIENCE, both).await;
    assert!(sent.is_ok() && received.is_ok());
    assert_eq!(back, big);
    assert_eq!(proxy.passed(Direction::Up), 300_000);
    assert_eq!(proxy.passed(Direction::Down), 300_000);
    drop(client);
    wait_until("it is closed", PATIENCE, async || proxy.connections() == 0).await;
}

#[tokio::test]
async fn delay_makes_every_piece_late_but_not_the_later_ones_twice() {
    let (proxy, _seen) = echo().await;
    let mut client = connect(&proxy).await;
    let delay = Duration::from_millis(200);
    proxy.set(Direction::Down, |link| link.delay = delay);
    let begun = Instant::now();
    for _ in 0..100 {
        client.write_all(b"x").await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut back = [0; 100];
    within("the echo", PATIENCE, client.read_exact(&mut back)).await.unwrap();
    let took = begun.elapsed();
    assert!(took >= delay, "{took:?}");
    assert!(took < delay * 50, "{took:?}: delays add up");
}

#[tokio::test]
async fn bandwidth_is_a_limit() {
    let (proxy, _seen) = echo().await;
    let mut client = connect(&proxy).await;
    proxy.set(Direction::Up, |link| {
        link.bytes_per_second = Some(50_000);
        link.slice = Some(1000);
    });
    let begun = Instant::now();
    ask(&mut client, &[7; 10_000]).await;
    assert!(begun.elapsed() >= Duration::from_millis(190), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn slices_arrive_in_parts() {
    let (proxy, mut seen) = echo().await;
    let mut client = connect(&proxy).await;
    // Slow enough that the parts cannot be read together.
    proxy.set(Direction::Up, |link| {
        link.slice = Some(2);
        link.bytes_per_second = Some(400);
    });
    ask(&mut client, b"abcdefgh").await;
    assert!(matches!(seen.recv().await, Some(Seen::Bytes(1..=6))), "in one piece");
}

#[tokio::test]
async fn a_stall_loses_nothing_and_a_black_hole_everything() {
    let (proxy, mut seen) = echo().await;
    let mut client = connect(&proxy).await;
    ask(&mut client, b"before").await;
    assert_eq!(seen.recv().await, Some(Seen::Bytes(6)));

    proxy.set(Direction::Up, |link| link.stalled = true);
    client.write_all(b"late").await.unwrap();
    assert!(timeout(WATCH, seen.recv()).await.is_err(), "it passed a stall");
    proxy.heal();
    let mut back = [0; 4];
    within("what was stalled", PATIENCE, client.read_exact(&mut back)).await.unwrap();
    assert_eq!((&back, seen.recv().await), (b"late", Some(Seen::Bytes(4))));

    proxy.set(Direction::Up, |link| link.black_hole = true);
    client.write_all(b"never").await.unwrap();
    assert!(timeout(WATCH, seen.recv()).await.is_err(), "it passed a black hole");
    proxy.heal();
    ask(&mut client, b"after").await;
    assert_eq!(seen.recv().await, Some(Seen::Bytes(5)));
}

#[tokio::test]
async fn a_cut_is_an_orderly_end_and_a_reset_is_not() {
    let (proxy, mut seen) = echo().await;
    let mut client = connect(&proxy).await;
    ask(&mut client, b"x").await;
    seen.recv().await;
    proxy.cut();
    assert_eq!(within("the end", PATIENCE, client.read(&mut [0])).await.unwrap(), 0);
    assert_eq!(seen.recv().await, Some(Seen::End));

    wait_until("it is gone", PATIENCE, async || proxy.connections() == 0).await;
    let mut client = connect(&proxy).await;
    ask(&mut client, b"x").await;
    seen.recv().await;
    proxy.reset();
    let error = within("the reset", PATIENCE, client.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(seen.recv().await, Some(Seen::Error(ErrorKind::ConnectionReset)));
}

#[tokio::test]
async fn who_was_forgotten_hears_nothing_and_new_ones_are_served() {
    let (proxy, mut seen) = echo().await;
    let mut client = connect(&proxy).await;
    ask(&mut client, b"x").await;
    seen.recv().await;
    proxy.forget();
    assert!(matches!(
        within("the server's end", PATIENCE, seen.recv()).await,
        Some(Seen::End | Seen::Error(_))
    ));
    ask(&mut connect(&proxy).await, b"y").await;
    assert_eq!(seen.recv().await, Some(Seen::Bytes(1)));
    client.write_all(b"anybody?").await.unwrap();
    let mut byte = [0];
    assert!(timeout(WATCH, client.read(&mut byte)).await.is_err());
    proxy.cut();
    assert!(!matches!(within("its end", PATIENCE, client.read(&mut byte)).await, Ok(1)));
}

#[tokio::test]
async fn an_abandoned_connection_stays_with_the_server() {
    let (proxy, mut seen) = echo().await;
    let mut client = connect(&proxy).await;
    ask(&mut client, b"x").await;
    seen.recv().await;
    proxy.abandon();
    let ended = within("the client's end", PATIENCE, client.read(&mut [0])).await;
    assert!(matches!(ended, Ok(0) | Err(_)));
    drop(client);
    assert!(timeout(WATCH, seen.recv()).await.is_err(), "the server hears of it");
    ask(&mut connect(&proxy).await, b"y").await;
    assert_eq!(seen.recv().await, Some(Seen::Bytes(1)));
    proxy.cut();
    assert!(matches!(
        within("the server's end", PATIENCE, seen.recv()).await,
        Some(Seen::End | Seen::Error(_))
    ));
}

#[tokio::test]
async fn one_direction_can_end_while_the_other_goes_on() {
    let (proxy, mut seen) = echo().await;
    let mut client = connect(&proxy).await;
    ask(&mut client, b"x").await;
    seen.recv().await;
    proxy.half_close(Direction::Down);
    assert_eq!(within("half the end", PATIENCE, client.read(&mut [0])).await.unwrap(), 0);
    client.write_all(b"still").await.unwrap();
    assert_eq!(within("the other half", PATIENCE, seen.recv()).await, Some(Seen::Bytes(5)));
}

#[tokio::test]
async fn a_connection_can_end_after_so_many_bytes() {
    let (proxy, mut seen) = echo().await;
    proxy.set(Direction::Up, |link| link.cut_after = Some(3));
    let mut client = connect(&proxy).await;
    client.write_all(b"abcdef").await.unwrap();
    assert_eq!(within("its beginning", PATIENCE, seen.recv()).await, Some(Seen::Bytes(3)));
    assert!(matches!(
        within("its end", PATIENCE, seen.recv()).await,
        Some(Seen::End | Seen::Error(_))
    ));
    assert_eq!(proxy.passed(Direction::Up), 3);
}

#[tokio::test]
async fn new_connections_can_be_refused() {
    let (proxy, _seen) = echo().await;
    let mut old = connect(&proxy).await;
    proxy.refuse(true);
    let mut new = TcpStream::connect(proxy.address()).await.unwrap();
    let ended = within("a refused connection", PATIENCE, new.read(&mut [0])).await;
    assert!(matches!(ended, Ok(0) | Err(_)));
    ask(&mut old, b"old ones go on").await;
    proxy.heal();
    ask(&mut connect(&proxy).await, b"welcome").await;
}
