//! Our own gRPC API (`proto/doorward/v1`), one noun a file: what operators on this host may see and do. `guard` stands
//! before all of it: callers are known by their process, let be by Rego (`data.guard.control.allow`), and recorded.

mod explain;
mod guard;
mod line;
mod pattern;
pub mod proto;
mod revocation;
mod session;
mod tail;

use std::{sync::Arc, time::Duration};

use axum::middleware;
use tokio::{net::UnixStream, sync::mpsc};
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tonic::{service::Routes, transport::Server};

use self::{
    explain::Explain,
    guard::Guard,
    proto::v1::{
        explain_service_server::ExplainServiceServer, revocation_service_server::RevocationServiceServer,
        session_service_server::SessionServiceServer, tail_service_server::TailServiceServer,
    },
    revocation::RevocationApi,
    session::SessionApi,
    tail::Tail,
};
use crate::{
    clock::Now,
    config::FileSink,
    listener::{Connection, Stranger},
    policy::PolicyStore,
    record::{Recorder, find::Finder, recent::Recent},
    revocation::Revocations,
    session::Sessions,
    stream::Streams,
    telemetry::metrics::Metrics,
};

/// Largest request.
const MESSAGE: usize = 64 * 1024;
/// Calls at a time over one connection.
const STREAMS: u32 = 32;
/// HTTP/2 keepalive, so that a caller that vanished is no follower for ever.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Ends live streams that fall under a revocation at a time; how many those are.
pub type Cut = Box<dyn Fn(Now) -> usize + Send + Sync>;

/// What the services work on.
pub struct Parts {
    pub policies: Arc<PolicyStore>,
    pub recorder: Recorder,
    pub recent: Arc<Recent>,
    /// Where decisions are written to, if that is a file.
    pub file: Option<FileSink>,
    pub sessions: Arc<Sessions>,
    pub revocations: Arc<Revocations>,
    pub streams: Arc<Streams>,
    /// Ends the live streams that fall under a revocation; how many those are.
    pub cut: Cut,
    /// Names this start of this process.
    pub instance: String,
}

/// Serves until `stop`, then ends the calls that have no end of their own and returns when the others are answered.
///
/// # Errors
/// When the server fails.
pub async fn serve(
    parts: Parts,
    metrics: Arc<Metrics>,
    connections: impl Stream<Item = std::io::Result<Connection>>,
    mut strangers: mpsc::Receiver<Stranger>,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let Parts { policies, recorder, recent, file, sessions, revocations, streams, cut, instance } = parts;
    let guard = Arc::new(Guard::new(Arc::clone(&policies), recorder, metrics));
    let tail = Tail::new(Arc::clone(&guard), Arc::clone(&recent), stop.clone());
    let explain = Explain::new(Arc::clone(&guard), Finder::new(recent, file), policies);
    let revocations = RevocationApi::new(Arc::clone(&guard), revocations, Arc::clone(&sessions), cut, instance);
    let sessions = SessionServiceServer::new(SessionApi::new(Arc::clone(&guard), sessions, streams));
    let services = Routes::new(TailServiceServer::new(tail).max_decoding_message_size(MESSAGE))
        .add_service(ExplainServiceServer::new(explain).max_decoding_message_size(MESSAGE))
        .add_service(RevocationServiceServer::new(revocations).max_decoding_message_size(MESSAGE))
        .add_service(sessions.max_decoding_message_size(MESSAGE));
    let watch = Arc::clone(&guard);
    let turned_away = async move {
        while let Some(stranger) = strangers.recv().await {
            watch.turned_away(guard::caller(stranger));
        }
    };
    tokio::spawn(stop.clone().run_until_cancelled_owned(turned_away));
    let routes = services.into_axum_router().layer(middleware::from_fn_with_state(guard, guard::record));
    Server::builder()
        .max_concurrent_streams(STREAMS)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .add_routes(routes.into())
        .serve_with_incoming_shutdown(connections.filter_map(process), stop.cancelled_owned())
        .await
}

/// The connection of a process on this host; there is no other kind here.
fn process(connection: std::io::Result<Connection>) -> Option<std::io::Result<UnixStream>> {
    match connection {
        Ok(Connection::Unix(stream)) => Some(Ok(stream)),
        Ok(Connection::Tcp(_) | Connection::Tls(_)) => None,
        Err(error) => Some(Err(error)),
    }
}

#[cfg(test)]
mod tests;
