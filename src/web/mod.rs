//! Status and metrics over HTTP. Read only, without authentication: loopback by default.

mod few;
mod metrics;

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{Html, IntoResponse},
    routing::get,
};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::{
    error::{Exit, Failure},
    run::status::{Board, Status},
};

const PAGE: &str = include_str!("page.html");

/// A running server; dropping it ends it.
pub struct Web {
    /// Where it listens.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Web {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Listens on `address` (port 0: a free one, which is logged) and serves until it is dropped.
///
/// # Errors
///
/// The address cannot be bound.
pub async fn serve(address: SocketAddr, board: Arc<Board>) -> Result<Web, Failure> {
    let bound = async {
        let listener = TcpListener::bind(address).await?;
        Ok::<_, std::io::Error>((listener.local_addr()?, listener))
    };
    let (address, listener) = bound.await.map_err(|e| {
        Failure::new(format!("http.listen: {address} cannot be bound"))
            .code("CUT0021")
            .caused_by(&e)
            .remedy("stop whoever uses it, or choose another address in `http.listen`")
            .exit(Exit::Usage)
    })?;
    tracing::info!("status and metrics on http://{address}/");
    let app = Router::new()
        .route("/", get(|| async { Html(PAGE) }))
        .route("/healthz", get(health))
        .route("/status", get(status))
        .route("/metrics", get(scrape))
        .with_state(board);
    let task = tokio::spawn(async move {
        if let Err(e) = axum::serve(few::Few::of(listener), app).await {
            tracing::error!("the HTTP server ended: {e}");
        }
    });
    Ok(Web { address, task })
}

/// 200 while the run does what it should, 503 with the alarms otherwise.
async fn health(State(board): State<Arc<Board>>) -> impl IntoResponse {
    let alarms = board.status().alarms;
    if alarms.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        let text: String = alarms.iter().map(|a| format!("{}: {}\n", a.code, a.what)).collect();
        (StatusCode::SERVICE_UNAVAILABLE, text)
    }
}

async fn status(State(board): State<Arc<Board>>) -> Json<Status> {
    Json(board.status())
}

async fn scrape(State(board): State<Arc<Board>>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], metrics::text(&board.status()))
}

#[cfg(test)]
mod tests {
    use cutover_core::model::run::RunId;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;
    use crate::{observe::progress::Progress, run::book::Book};

    async fn serving() -> (Web, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let book = Arc::new(Book::open(dir.path()).unwrap());
        let run = RunId::new("shop").unwrap();
        let board = Arc::new(Board::new(&run, book, Arc::new(Progress::default())));
        (serve("127.0.0.1:0".parse().unwrap(), board).await.unwrap(), dir)
    }

    async fn get(web: &Web, method: &str, path: &str) -> String {
        let mut stream = TcpStream::connect(web.address).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn everything_is_served_and_nothing_is_accepted() {
        let (web, _dir) = serving().await;
        for (path, want) in [
            ("/", "<!doctype html>"),
            ("/healthz", "ok"),
            ("/status", "\"run\":\"shop\""),
            ("/metrics", "cutover_owner{name=\"blue\"} 1.0"),
        ] {
            let answer = get(&web, "GET", path).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
            assert!(answer.contains(want), "{path}: {answer}");
        }
        assert!(get(&web, "GET", "/nowhere").await.starts_with("HTTP/1.1 404"));
        for path in ["/status", "/", "/healthz"] {
            assert!(get(&web, "POST", path).await.starts_with("HTTP/1.1 405"), "{path}");
        }
    }

    /// They took all file descriptors, and moves were refused for want of them.
    #[tokio::test(start_paused = true)]
    async fn clients_that_say_nothing_are_few_and_leave() {
        let (web, _dir) = serving().await;
        let mut silent = Vec::new();
        for _ in 0..100 {
            silent.push(TcpStream::connect(web.address).await.unwrap());
        }
        // Behind all of them, each for its time.
        let begun = tokio::time::Instant::now();
        assert!(get(&web, "GET", "/healthz").await.starts_with("HTTP/1.1 200"));
        let waited = begun.elapsed().as_secs();
        assert!((90..=130).contains(&waited), "{waited}");
    }

    #[tokio::test]
    async fn an_address_in_use_is_told_with_its_code() {
        let (web, dir) = serving().await;
        let other = tempfile::tempdir_in(dir.path()).unwrap();
        let book = Arc::new(Book::open(other.path()).unwrap());
        let run = RunId::new("shop").unwrap();
        let board = Arc::new(Board::new(&run, book, Arc::new(Progress::default())));
        let failure = serve(web.address, board).await.err().unwrap();
        assert_eq!(failure.code.as_deref(), Some("CUT0021"));
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        let outside = PAGE.matches("http://").count() + PAGE.matches("https://").count();
        assert_eq!(outside, 0);
        assert!(!PAGE.contains("innerHTML"), "names of tables are text, never markup");
    }
}
