//! `envoy.service.ext_proc.v3.ExternalProcessor/Process`: the wire of live streams. Envoy keeps one gRPC stream open
//! beside each stream of a client, and resets the client's when ours ends with an error; when it ends with OK, the client's
//! goes on. So the first message claims the allow that the stream rests on, by the decision id in the metadata that
//! ext_authz left; what follows is waved through; and the error comes when `stream` says that it is over. Nothing of a body
//! passes here.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use envoy_types::pb::{
    envoy::service::ext_proc::v3::{
        BodyResponse, CommonResponse, HeadersResponse, ProcessingRequest, ProcessingResponse, TrailersResponse,
        external_processor_server::ExternalProcessor, processing_request::Request as Part,
        processing_response::Response as Reply,
    },
    google::protobuf::value::Kind,
};
use tokio::time::timeout;
use tokio_stream::Stream as Messages;
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

use crate::{
    authorizer::Authorizer,
    clock,
    record::{Body, PeerRecord, Record, Recorder, StreamEndRecord},
    stream::{End, Facts, Refused, Stream},
    telemetry::metrics::Metrics,
    verdict::Mode,
};

/// Full name of the gRPC service.
pub const SERVICE: &str = "envoy.service.ext_proc.v3.ExternalProcessor";
/// Where the answers of ext_authz leave their metadata.
const NAMESPACE: &str = "envoy.filters.http.ext_authz";
/// Longest time until the first message, which Envoy sends together with its call.
const OPENING: Duration = Duration::from_secs(10);

/// Holds the streams of one listener.
#[derive(Debug, Clone)]
pub struct Holder {
    pub authorizer: Arc<Authorizer>,
    pub recorder: Recorder,
    pub metrics: Arc<Metrics>,
}

#[tonic::async_trait]
impl ExternalProcessor for Holder {
    type ProcessStream = Pin<Box<dyn Messages<Item = Result<ProcessingResponse, Status>> + Send>>;

    async fn process(&self, request: Request<Streaming<ProcessingRequest>>) -> Result<Response<Self::ProcessStream>, Status> {
        let held = Held { holder: self.clone(), messages: request.into_inner(), phase: Phase::Opening };
        let answers = futures_util::stream::unfold(held, async |mut held| held.next().await.map(|answer| (answer, held)));
        Ok(Response::new(Box::pin(answers)))
    }
}

/// One stream on its way.
struct Held {
    holder: Holder,
    messages: Streaming<ProcessingRequest>,
    phase: Phase,
}

enum Phase {
    /// Nothing was said yet.
    Opening,
    Live(Live),
    /// In `observe`: it rests on nothing, or on what has ended, and goes on all the same.
    Loose,
    Over,
}

impl Held {
    /// The next answer to Envoy; none is the end with OK.
    async fn next(&mut self) -> Option<Result<ProcessingResponse, Status>> {
        loop {
            let over = match &mut self.phase {
                Phase::Over => return None,
                Phase::Opening => return self.open().await,
                Phase::Loose => {
                    tokio::select! {
                        message = self.messages.message() => return self.passed(message),
                        () = self.holder.authorizer.streams().released() => return None,
                    }
                }
                Phase::Live(live) => {
                    tokio::select! {
                        biased;
                        over = live.stream.over() => over,
                        message = self.messages.message() => return self.passed(message),
                        () = self.holder.authorizer.streams().released() => End::Drained,
                    }
                }
            };
            let enforced = self.holder.authorizer.settings().mode == Mode::Enforce;
            let after = if enforced || over == End::Drained { Phase::Over } else { Phase::Loose };
            if let Phase::Live(live) = std::mem::replace(&mut self.phase, after) {
                live.ended(over, enforced);
            }
            if enforced && over != End::Drained {
                return Some(Err(denied(over)));
            }
        }
    }

    /// Claims the stream by what the first message says.
    async fn open(&mut self) -> Option<Result<ProcessingResponse, Status>> {
        let Ok(Ok(Some(first))) = timeout(OPENING, self.messages.message()).await else {
            self.phase = Phase::Over;
            return self.refuse(None).map(Err);
        };
        let claimed = match decision_id(&first) {
            Some(id) => self.holder.authorizer.claim(id).map_err(|refused| Some((id, refused))),
            None => Err(None),
        };
        self.phase = match claimed {
            Ok(stream) => Phase::Live(Live::new(self.holder.clone(), stream)),
            Err(why) => match self.refuse(why) {
                Some(status) => {
                    self.phase = Phase::Over;
                    return Some(Err(status));
                }
                None => Phase::Loose,
            },
        };
        Some(answer(&first))
    }

    /// There is nothing that the stream could rest on. None in `observe`, which ends nothing.
    fn refuse(&self, why: Option<(Uuid, Refused)>) -> Option<Status> {
        let Holder { authorizer, metrics, .. } = &self.holder;
        let enforced = authorizer.settings().mode == Mode::Enforce;
        let (word, status) = match why {
            None => ("unnamed", Status::permission_denied("the stream has no decision id; is its namespace forwarded?")),
            Some((_, Refused::Unknown)) => ("unknown", Status::permission_denied("the stream's decision is not known")),
            Some((_, Refused::Claimed)) => ("claimed", Status::permission_denied("the stream's decision has a stream already")),
            Some((id, Refused::Over(end, facts))) => {
                self.holder.tell(id, &facts, end, enforced, Duration::ZERO);
                (end.as_str(), denied(end))
            }
        };
        metrics.stream_refused(word);
        tracing::debug!(reason = word, enforced, "a stream rests on no decision");
        enforced.then_some(status)
    }

    /// Waves through what Envoy shows of a stream, until it shows no more.
    fn passed(&mut self, message: Result<Option<ProcessingRequest>, Status>) -> Option<Result<ProcessingResponse, Status>> {
        match message {
            Ok(Some(message)) => Some(answer(&message)),
            // What is live is told of when it goes.
            Ok(None) | Err(_) => {
                self.phase = Phase::Over;
                None
            }
        }
    }
}

impl Holder {
    fn tell(&self, decision: Uuid, facts: &Facts, end: End, enforced: bool, lasted: Duration) {
        self.metrics.stream_ended(end.as_str());
        let record = StreamEndRecord {
            decision_id: decision,
            end,
            enforced,
            peer: facts.peer.as_deref().map(PeerRecord::from),
            principal: facts.principal.clone(),
            session: facts.session,
            lasted,
        };
        self.recorder.offer(Record { id: Uuid::now_v7(), at: clock::now(), body: Body::StreamEnd(Box::new(record)) });
    }
}

/// A stream that is held. One that goes without a word was ended by one of its two sides, or by Envoy.
struct Live {
    holder: Holder,
    stream: Stream,
    since: Instant,
    told: bool,
}

impl Live {
    fn new(holder: Holder, stream: Stream) -> Self {
        holder.metrics.stream_opened();
        Self { holder, stream, since: Instant::now(), told: false }
    }

    fn ended(mut self, end: End, enforced: bool) {
        self.tell(end, enforced);
    }

    fn tell(&mut self, end: End, enforced: bool) {
        if !std::mem::replace(&mut self.told, true) {
            self.holder.tell(self.stream.id(), self.stream.facts(), end, enforced, self.since.elapsed());
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.tell(End::Finished, true);
        self.holder.metrics.stream_closed();
    }
}

/// What Envoy logs of it; the client sees a reset, or an error of Envoy's where nothing was answered yet.
fn denied(end: End) -> Status {
    Status::permission_denied(format!("doorward ended the stream: {}", end.as_str()))
}

fn decision_id(message: &ProcessingRequest) -> Option<Uuid> {
    let metadata = message.metadata_context.as_ref()?.filter_metadata.get(NAMESPACE)?;
    match metadata.fields.get("decision_id")?.kind.as_ref()? {
        Kind::StringValue(text) => Uuid::try_parse(text).ok(),
        _ => None,
    }
}

/// Go on, nothing is changed. What else Envoy may be told to show, it is answered about too: it waits for that.
fn answer(message: &ProcessingRequest) -> Result<ProcessingResponse, Status> {
    let headers = HeadersResponse { response: Some(CommonResponse::default()) };
    let body = BodyResponse { response: Some(CommonResponse::default()) };
    let trailers = TrailersResponse::default();
    let reply = match message.request {
        Some(Part::RequestHeaders(_)) => Reply::RequestHeaders(headers),
        Some(Part::ResponseHeaders(_)) => Reply::ResponseHeaders(headers),
        Some(Part::RequestBody(_)) => Reply::RequestBody(body),
        Some(Part::ResponseBody(_)) => Reply::ResponseBody(body),
        Some(Part::RequestTrailers(_)) => Reply::RequestTrailers(trailers),
        Some(Part::ResponseTrailers(_)) => Reply::ResponseTrailers(trailers),
        None => return Err(Status::invalid_argument("the message shows nothing of the stream")),
    };
    Ok(ProcessingResponse { response: Some(reply), ..ProcessingResponse::default() })
}
