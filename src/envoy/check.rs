//! `envoy.service.auth.v3.Authorization/Check`: from the raw bytes of a call to its answer. Deny is a value here:
//! bytes that are no CheckRequest, too many of them, or a panic below are denials with a reason, because to Envoy a
//! gRPC error is an *error*, which `failure_mode_allow` would let through.

use std::{
    convert::Infallible,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use envoy_types::ext_authz::v3::pb::{CheckRequest, CheckResponse};
use futures_util::FutureExt as _;
use prost::Message as _;
use tokio::time::timeout;
use tonic::{
    Code, Status,
    codec::{Codec, DecodeBuf, Decoder},
    metadata::MetadataMap,
    server::{Grpc, NamedService, UnaryService},
};
use tonic_prost::ProstCodec;

use super::{decode, descriptors::Descriptors, encode};
use crate::{
    authorizer::{Authorizer, Call, Listener, Settings},
    clock,
    request::Request,
    telemetry::{
        metrics::Metrics,
        trace::{Facts, TraceHeaders, Tracer},
    },
    verdict::{Class, Mode, Reason, Tier},
};

/// Full name of the gRPC service.
pub const SERVICE: &str = "envoy.service.auth.v3.Authorization";
const METHOD: &str = "/envoy.service.auth.v3.Authorization/Check";
/// Messages beyond this multiple of the limit are cut off by the transport instead of being read to be refused.
const READ_FACTOR: usize = 4;
/// Longest time to read a message.
const READING: Duration = Duration::from_secs(30);
/// Kept back from the caller's deadline for the answer to travel: a denial that comes too late is an error to Envoy.
const ANSWER_MARGIN: Duration = Duration::from_millis(5);

/// What one listener's service is made of.
#[derive(Debug)]
pub struct Door {
    pub authorizer: Arc<Authorizer>,
    pub metrics: Arc<Metrics>,
    pub tracer: Tracer,
    pub listener: Listener,
    /// `max_body` of the listener, in bytes.
    pub max_body: Option<usize>,
    /// `skip_body_parse` of the listener.
    pub skip_body_parse: bool,
    /// Of the messages of gRPC calls.
    pub descriptors: Arc<Descriptors>,
    /// Largest CheckRequest, in bytes.
    pub message: usize,
    /// Longest time for a decision.
    pub decision: Duration,
}

/// The service that tonic routes to.
#[derive(Debug, Clone)]
pub struct CheckService(Arc<Door>);

impl CheckService {
    pub fn new(door: Door) -> Self {
        Self(Arc::new(door))
    }
}

impl NamedService for CheckService {
    const NAME: &'static str = SERVICE;
}

type Answering = Pin<Box<dyn Future<Output = Result<http::Response<tonic::body::Body>, Infallible>> + Send>>;

impl tower::Service<http::Request<tonic::body::Body>> for CheckService {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Answering {
        let service = self.clone();
        Box::pin(async move {
            if request.uri().path() != METHOD {
                return Ok(Status::unimplemented("no such method").into_http());
            }
            let limit = service.0.message.saturating_mul(READ_FACTOR);
            let longest = READING.saturating_add(service.0.decision);
            let mut grpc = Grpc::new(RawCodec).max_decoding_message_size(limit);
            // A message that trickles in would hold its stream and memory for as long as its sender likes.
            let answer = timeout(longest, grpc.unary(service, request)).await;
            Ok(answer.unwrap_or_else(|_| Status::deadline_exceeded("the message took too long").into_http()))
        })
    }
}

impl UnaryService<Bytes> for CheckService {
    type Response = CheckResponse;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<CheckResponse>, Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        let door = Arc::clone(&self.0);
        Box::pin(async move {
            let (metadata, _, message) = request.into_parts();
            match door.answer(&metadata, message).await {
                encode::Reply::Response(response) => Ok(tonic::Response::new(response)),
                encode::Reply::Error(status) => Err(status),
            }
        })
    }
}

impl Door {
    async fn answer(&self, metadata: &MetadataMap, message: Bytes) -> encode::Reply {
        let unanswered = Unanswered { metrics: &self.metrics };
        let settings = self.authorizer.settings();
        let rules = &self.listener.rules;
        let remove_xfcc = rules.reads_xfcc() && !rules.forward_xfcc;
        let reply = encode::Settings { remove_xfcc, ..encode::Settings::new(&settings) };
        let answer = match AssertUnwindSafe(self.decide(metadata, message, &settings, &reply)).catch_unwind().await {
            Ok(reply) => reply,
            Err(_) => encode::encode(&self.authorizer.broken(&settings), &encode::Shape::UNKNOWN, &reply),
        };
        std::mem::forget(unanswered);
        answer
    }

    async fn decide(
        &self,
        metadata: &MetadataMap,
        message: Bytes,
        settings: &Settings,
        reply: &encode::Settings<'_>,
    ) -> encode::Reply {
        let started = Instant::now();
        let now = clock::now();
        let text = |name: &str| metadata.get(name).and_then(|value| value.to_str().ok());
        let allowance = text("grpc-timeout")
            .and_then(grpc_timeout)
            .map_or(self.decision, |time| time.saturating_sub(ANSWER_MARGIN.min(time / 4)).min(self.decision));
        let (request, problem) = self.read(message, settings);
        let header = |name: &str| request.http.as_ref().and_then(|http| http.headers.get(name));
        let span = self.tracer.check(
            now,
            TraceHeaders { parent: text("traceparent"), state: text("tracestate") },
            TraceHeaders { parent: header("traceparent"), state: header("tracestate") },
        );
        let deadline = (started + allowance).into();
        let call = Call { listener: &self.listener, settings, trace: span.ids(), started, deadline, now };
        let decided = match problem {
            Some(Problem::Refused(reason, detail)) => self.authorizer.refuse(&call, &request, reason, detail).await,
            Some(Problem::Unparsable(detail)) => self.authorizer.authorize(&call, &request, Some(detail)).await,
            None => self.authorizer.authorize(&call, &request, None).await,
        };
        let shape = encode::Shape { mcp: decided.mcp(), ..encode::Shape::of(&request) };
        let answer = encode::encode(&decided.outcome, &shape, reply);
        let code = match &answer {
            encode::Reply::Response(_) => Code::Ok,
            encode::Reply::Error(status) => status.code(),
        };
        let (elapsed, context) = (started.elapsed(), decided.context.as_ref());
        span.finish(&Facts {
            decision: decided.outcome.decision,
            enforced: decided.outcome.mode == Mode::Enforce,
            reason: decided.outcome.reason,
            mode: decided.outcome.mode,
            protocol: context.map_or_else(|| request.protocol(), |context| context.action.protocol),
            decision_id: decided.outcome.id,
            policy_path: &settings.rule,
            revision: decided.policy.as_ref().map(|policy| &**policy.revision()),
            rule: decided.outcome.answer.as_ref().and_then(|answer| answer.rule.as_deref()),
            method: request.http.as_ref().map(|http| http.method.as_str()),
            action: context.and_then(|context| context.action.entry.as_ref()).map(|entry| &*entry.name),
            class: context.map_or(Class::Unknown, |context| context.action.class()),
            tier: context.map_or(Tier::None, |context| context.tier),
            risk: context.and_then(|context| context.risk.as_ref()).map(|risk| risk.level),
            decide: decided.evaluation,
            elapsed,
            code,
        });
        self.metrics.call_answered(code, elapsed);
        answer
    }

    fn read(&self, message: Bytes, settings: &Settings) -> (Request, Option<Problem>) {
        if message.len() > self.message {
            let detail = format!("{} bytes, the limit is {}", message.len(), self.message);
            return (Request::unread(), Some(Problem::Refused(Reason::MessageTooLarge, detail)));
        }
        match CheckRequest::decode(message) {
            Ok(check) => {
                let settings = decode::Settings {
                    max_body: self.max_body,
                    skip_body_parse: self.skip_body_parse,
                    compat: settings.compat,
                    descriptors: self.descriptors.current(),
                };
                let decoded = decode::decode(check, &settings);
                (decoded.request, decoded.parse_error.map(Problem::Unparsable))
            }
            Err(error) => (Request::unread(), Some(Problem::Refused(Reason::Undecodable, error.to_string()))),
        }
    }
}

/// Counts a call that is dropped unanswered, because its caller went away: nothing else would tell of it.
struct Unanswered<'a> {
    metrics: &'a Metrics,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        self.metrics.check_cancelled();
    }
}

enum Problem {
    /// There is no request to speak of.
    Refused(Reason, String),
    /// The request is there, a part of it cannot be parsed.
    Unparsable(String),
}

/// `grpc-timeout`: at most eight digits and a unit (gRPC over HTTP/2, "Requests"). Anything else counts as absent.
fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// Hands over the message as it came, so that what cannot be decoded is still answered.
#[derive(Debug, Clone, Copy)]
struct RawCodec;

impl Codec for RawCodec {
    type Encode = CheckResponse;
    type Decode = Bytes;
    type Encoder = <ProstCodec<CheckResponse, CheckRequest> as Codec>::Encoder;
    type Decoder = RawDecoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<CheckResponse, CheckRequest>::default().encoder()
    }

    fn decoder(&mut self) -> RawDecoder {
        RawDecoder
    }
}

struct RawDecoder;

impl Decoder for RawDecoder {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

#[cfg(test)]
mod tests;
