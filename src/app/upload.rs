//! Sending decisions to a log service: what waits in the outbox is posted, request by request, until it is empty; after
//! a failure it stays there, and is sent later. What is sent is `record`'s.

use std::{sync::Arc, time::Duration};

use reqwest::{
    Client, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    client::{Access, ClientError, chance, failed, wait},
    reload::Told,
};
use crate::{
    config,
    record::{Chunk, Outbox},
    telemetry::metrics::{Metrics, UploadAnswer},
    trust::own::OwnSvid,
};

/// Time between two attempts while the process ends.
const LAST_RETRY: Duration = Duration::from_millis(100);

/// Why a request was not accepted.
#[derive(Debug, thiserror::Error)]
enum UploadError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the log service answered {0}; check `records.upload.url` and token")]
    Status(StatusCode),
    #[error("the process ends")]
    End,
}

/// Sends until the records have ended and all of them are sent, or their time is over.
pub(super) async fn run(outbox: Arc<Outbox>, config: config::Upload, own: Arc<OwnSvid>, metrics: Arc<Metrics>) {
    let mut failures = 0;
    let told = Told::default();
    while !outbox.is_over() {
        match outbox.deadline() {
            // What failed just now has little time to succeed.
            Some(_) if failures > 0 => sleep(LAST_RETRY).await,
            _ => outbox.due(wait(&config.delay, failures, chance()), failures == 0).await,
        }
        let error = empty(&outbox, &config, &own, &metrics).await.err().map(|error| error.to_string());
        failures = if error.is_some() { failures + 1 } else { 0 };
        if told.is_news(error.as_deref()) {
            tracing::warn!(error, "decisions cannot be uploaded; they wait");
        }
        outbox.report();
    }
}

/// Sends all that waits.
async fn empty(outbox: &Outbox, config: &config::Upload, own: &OwnSvid, metrics: &Metrics) -> Result<(), UploadError> {
    let access = Access::from(config);
    let mut client = None;
    while let Some(chunk) = outbox.chunk() {
        let result = match client.take().map_or_else(|| access.client(own), Ok) {
            Ok(client) => send(&client, access, config, &chunk, outbox.deadline()).await.map(|status| (status, client)),
            Err(error) => Err(error.into()),
        };
        match result {
            Ok((status, used)) if status.is_success() => {
                outbox.sent(&chunk);
                metrics.upload_answered(UploadAnswer::Accepted);
                client = Some(used);
            }
            Ok((StatusCode::PAYLOAD_TOO_LARGE, used)) => {
                outbox.too_large(chunk);
                metrics.upload_answered(UploadAnswer::TooLarge);
                client = Some(used);
            }
            other => {
                outbox.back(chunk);
                metrics.upload_answered(UploadAnswer::Failed);
                return Err(other.map_or_else(|error| error, |(status, _)| UploadError::Status(status)));
            }
        }
    }
    Ok(())
}

async fn send(
    client: &Client,
    access: Access<'_>,
    config: &config::Upload,
    chunk: &Chunk,
    deadline: Option<std::time::Instant>,
) -> Result<StatusCode, UploadError> {
    let request = client.post(config.address()).header(CONTENT_TYPE, "application/json").header(CONTENT_ENCODING, "gzip");
    let request = access.authorised(request)?.body(chunk.body());
    let end = Instant::now() + config.delay.timeout.duration();
    let end = deadline.map_or(end, |deadline| end.min(deadline.into()));
    let response = timeout_at(end, request.send()).await.map_err(|_| UploadError::End)?;
    Ok(response.map_err(failed)?.status())
}
