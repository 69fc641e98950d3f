//! The door to Envoy: its gRPC services over bound listeners. The only part that knows Envoy's request and response
//! types: `decode` reads them, `encode` writes them, `check` is the call, `ext_proc` holds live streams. Who may make it is `listener`'s.

pub mod check;
pub mod decode;
pub mod descriptors;
pub mod encode;
mod ext_proc;
pub mod question;
pub mod shown;

use std::{io, time::Duration};

use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic_health::server::HealthReporter;

use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_server::ExternalProcessorServer;

pub use self::{check::CheckService, ext_proc::Holder};
use crate::{config, listener::Connection};

/// Streams per connection beyond those that may wait and those that live, so that a full queue is answered and never left unread.
const SPARE_STREAMS: usize = 256;
/// Longest life of a connection, then GOAWAY: a caller that proved itself by certificate does so again, so that its
/// connection does not outlive its SVID and our trust in it by more than this.
const CONNECTION_AGE: Duration = Duration::from_secs(15 * 60);
/// HTTP/2 keepalive, so that a vanished Envoy does not hold a connection for ever.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Health as `grpc.health.v1` tells it: for the whole server and for the two services that Envoy calls.
#[derive(Clone)]
pub struct Health(HealthReporter);

impl Health {
    pub async fn set(&self, serving: bool) {
        use tonic_health::ServingStatus::{NotServing, Serving};
        let status = if serving { Serving } else { NotServing };
        for service in ["", check::SERVICE, ext_proc::SERVICE] {
            self.0.set_service_status(service, status).await;
        }
    }
}

/// The health service, NOT_SERVING until told otherwise.
pub async fn health() -> (Health, tonic_health::pb::health_server::HealthServer<impl tonic_health::pb::health_server::Health>) {
    let (reporter, server) = tonic_health::server::health_reporter();
    let health = Health(reporter);
    health.set(false).await;
    (health, server)
}

/// Serves one listener until `stop`, then sends GOAWAY and returns when the calls in flight are answered.
///
/// # Errors
/// When reflection cannot be set up, or the server fails.
pub async fn serve(
    service: CheckService,
    holder: Holder,
    health: tonic_health::pb::health_server::HealthServer<impl tonic_health::pb::health_server::Health>,
    reflection: bool,
    limits: &config::Limits,
    connections: impl tokio_stream::Stream<Item = io::Result<Connection>>,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let reflection = match reflection {
        true => Some(
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                .with_service_name(check::SERVICE)
                .build_v1()?,
        ),
        false => None,
    };
    let streams = u32::try_from(limits.queue.saturating_add(SPARE_STREAMS).saturating_add(limits.streams)).unwrap_or(u32::MAX);
    Server::builder()
        .max_concurrent_streams(streams)
        // Clients of Envoy that come and go at once must not end its connection, and with it the streams of others.
        .http2_max_pending_accept_reset_streams(usize::try_from(streams).ok())
        .http2_keepalive_interval(Some(KEEPALIVE))
        .max_connection_age(CONNECTION_AGE)
        .add_service(service)
        .add_service(ExternalProcessorServer::new(holder).max_decoding_message_size(limits.message.bytes()))
        .add_service(health)
        .add_optional_service(reflection)
        .serve_with_incoming_shutdown(connections, stop.cancelled_owned())
        .await?;
    Ok(())
}

/// Why serving ended other than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("reflection cannot be set up")]
    Reflection(#[from] tonic_reflection::server::Error),
    #[error("the gRPC server failed")]
    Transport(#[from] tonic::transport::Error),
}
