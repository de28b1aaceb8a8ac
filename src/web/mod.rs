//! Status and metrics over HTTP. Read only, without authentication: loopback by default.

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
        if let Err(e) = axum::serve(listener, app).await {
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
