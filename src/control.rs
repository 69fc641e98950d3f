//! Our own gRPC API (`proto/doorward/v1`), one noun a file: what operators, people and workloads may see and do. `guard` stands
//! before all of it: callers are known by their process, their SVID or a person's token, let be by Rego (`data.guard.control.allow`), and recorded.

mod explain;
mod grant;
mod guard;
mod inventory;
mod line;
mod page;
mod pattern;
pub mod proto;
mod revocation;
mod session;
mod status;
mod tail;
mod workload;

use std::{sync::Arc, time::Duration};

use axum::middleware;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{service::Routes, transport::Server};

pub use self::status::{Condition, Health};
use self::{
    explain::Explain,
    grant::GrantApi,
    guard::{Guard, Revoked},
    inventory::InventoryApi,
    proto::v1::{
        explain_service_server::ExplainServiceServer, grant_service_server::GrantServiceServer,
        inventory_service_server::InventoryServiceServer, revocation_service_server::RevocationServiceServer,
        session_service_server::SessionServiceServer, status_service_server::StatusServiceServer,
        tail_service_server::TailServiceServer, task_service_server::TaskServiceServer,
        workload_service_server::WorkloadServiceServer,
    },
    revocation::RevocationApi,
    session::SessionApi,
    status::StatusApi,
    tail::Tail,
    workload::WorkloadApi,
};
use crate::{
    authorizer::ControlState,
    clock::Now,
    config::FileSink,
    identity::people::People,
    inventory::Inventory,
    listener::{Connection, Stranger},
    policy::PolicyStore,
    record::{Recorder, find::Finder, recent::Recent},
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

/// Ends live streams that rest on what was revoked or is over at a time; how many those are.
pub type Cut = Arc<dyn Fn(Now) -> usize + Send + Sync>;

/// What the services work on.
pub struct Parts {
    pub policies: Arc<PolicyStore>,
    pub recorder: Recorder,
    pub recent: Arc<Recent>,
    /// Where decisions are written to, if that is a file.
    pub file: Option<FileSink>,
    pub sessions: Arc<Sessions>,
    pub control: ControlState,
    /// Who verifies people's tokens.
    pub people: Option<Arc<People>>,
    /// Sessions in a task end with it.
    pub end_with_task: bool,
    pub streams: Arc<Streams>,
    pub inventory: Arc<Inventory>,
    /// What a workload that calls falls under.
    pub revoked: Revoked,
    /// Ends the live streams that rest on what was revoked or is over.
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
    health: Health,
    metrics: Arc<Metrics>,
    connections: impl Stream<Item = std::io::Result<Connection>>,
    mut strangers: mpsc::Receiver<Stranger>,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let status = StatusApi::parts(&parts, health);
    let Parts {
        policies,
        recorder,
        recent,
        file,
        sessions,
        control,
        people,
        end_with_task,
        streams,
        inventory,
        revoked,
        cut,
        instance,
    } = parts;
    let guard = Arc::new(Guard::new(Arc::clone(&policies), recorder, metrics, people, revoked));
    let workloads = WorkloadApi::new(Arc::clone(&guard), Arc::clone(&policies));
    let inventory = InventoryApi::new(Arc::clone(&guard), inventory, Arc::clone(&policies));
    let status = StatusServiceServer::new(StatusApi::new(Arc::clone(&guard), status));
    let tail = Tail::new(Arc::clone(&guard), Arc::clone(&recent), stop.clone());
    let explain = Explain::new(Arc::clone(&guard), Finder::new(recent, file), Arc::clone(&policies));
    let (sessions_of_tasks, state) = (end_with_task.then(|| Arc::clone(&sessions)), control.clone());
    let grants = GrantApi::new(Arc::clone(&guard), state, policies, sessions_of_tasks, Arc::clone(&cut), stop.clone());
    let revocations = RevocationApi::new(Arc::clone(&guard), control, Arc::clone(&sessions), cut, instance);
    let sessions = SessionServiceServer::new(SessionApi::new(Arc::clone(&guard), sessions, streams));
    let services = Routes::new(TailServiceServer::new(tail).max_decoding_message_size(MESSAGE))
        .add_service(ExplainServiceServer::new(explain).max_decoding_message_size(MESSAGE))
        .add_service(GrantServiceServer::new(grants.clone()).max_decoding_message_size(MESSAGE))
        .add_service(TaskServiceServer::new(grants).max_decoding_message_size(MESSAGE))
        .add_service(RevocationServiceServer::new(revocations).max_decoding_message_size(MESSAGE))
        .add_service(sessions.max_decoding_message_size(MESSAGE))
        .add_service(InventoryServiceServer::new(inventory).max_decoding_message_size(MESSAGE))
        .add_service(WorkloadServiceServer::new(workloads).max_decoding_message_size(MESSAGE))
        .add_service(status.max_decoding_message_size(MESSAGE));
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
        .serve_with_incoming_shutdown(connections, stop.cancelled_owned())
        .await
}

#[cfg(test)]
mod tests;
