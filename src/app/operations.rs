//! `/livez`, `/readyz` and `/metrics` over HTTP. No secrets are shown; whoever reaches the address may read.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use anyhow::Context as _;
use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
    serve::Listener,
};
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep},
};
use tokio_util::sync::CancellationToken;

use super::reload::Reloader;
use crate::{config, telemetry::MetricsPage};

/// Connections at a time, and how long each may stay. Whoever reaches the address may connect, and could else use up the
/// file descriptors that Envoy's connections and the records need.
const VISITORS: usize = 64;
const VISIT: Duration = Duration::from_secs(10);

#[derive(Clone)]
struct Operations {
    reloader: Arc<Reloader>,
    page: MetricsPage,
}

/// Where `operations` says.
pub(super) async fn bind(config: &config::Operations) -> anyhow::Result<TcpListener> {
    let address = config.address;
    let bound = TcpListener::bind(address).await;
    bound.with_context(|| format!("cannot listen on `{address}` (`operations.address`)"))
}

/// Serves until `stop`.
pub(super) async fn serve(listener: TcpListener, reloader: Arc<Reloader>, page: MetricsPage, stop: CancellationToken) {
    let routes = Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Operations { reloader, page });
    // Draining answers until the end: a probe has to see `draining`, so nothing waits for its connections.
    let serving = axum::serve(Lodge { listener, places: Arc::new(Semaphore::new(VISITORS)) }, routes);
    tokio::select! {
        Err(error) = async { serving.await } => tracing::error!(%error, "the operations listener failed"),
        () = stop.cancelled() => {}
    }
}

async fn ready(State(operations): State<Operations>) -> Response {
    let document = operations.reloader.status();
    let status = if document.get("ready") == Some(&json!(true)) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(document)).into_response()
}

async fn metrics(State(operations): State<Operations>) -> Response {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], operations.page.text()).into_response()
}

/// Accepts as many connections as there are places.
struct Lodge {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

impl Listener for Lodge {
    type Io = Visit;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Visit, SocketAddr) {
        // Never closed, so there is always a place in the end.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        let (stream, address) = Listener::accept(&mut self.listener).await;
        (Visit { stream, ends: Box::pin(sleep(VISIT)), _place: place }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that fails once its time is over.
struct Visit {
    stream: TcpStream,
    ends: Pin<Box<Sleep>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Visit {
    /// The stream while there is time; otherwise the task is woken when there is none.
    fn stream(&mut self, cx: &mut Context<'_>) -> io::Result<Pin<&mut TcpStream>> {
        match self.ends.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(Pin::new(&mut self.stream)),
        }
    }
}

impl AsyncRead for Visit {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream(cx)?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Visit {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().stream(cx)?.poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream(cx)?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
