//! The spans of one Check and the W3C trace context they join. Two contexts may come with a Check: that of the gRPC
//! call itself, which Envoy made, and the one in the headers of the request that is asked about, which anyone made.

use std::{
    fmt,
    ops::Range,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use opentelemetry::{
    Context, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{Link, Span as _, SpanContext, SpanKind, TraceContextExt as _, TraceState, Tracer as _},
};
use opentelemetry_sdk::trace::{Sampler, SamplingDecision, SdkTracer, ShouldSample, Span};
use tonic::Code;
use uuid::Uuid;

use crate::{
    clock::Now,
    verdict::{Class, Decision, Level, Mode, Protocol, Reason, Tier},
};

/// Fully qualified name of the method we serve: span name and `rpc.method`.
pub(super) const METHOD: &str = "envoy.service.auth.v3.Authorization/Check";

/// Longest `tracestate` taken over (W3C Trace Context §3.3.1.5: at least 512 characters should be propagated).
const MAX_TRACE_STATE: usize = 512;

/// The two trace headers of one carrier, as they came. `baggage` is never read: anyone may have written it.
#[derive(Debug, Clone, Copy, Default)]
pub struct TraceHeaders<'a> {
    pub parent: Option<&'a str>,
    pub state: Option<&'a str>,
}

/// The place of a decision in a trace: our own span, or the caller's where we make none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceIds {
    pub trace: TraceId,
    pub span: SpanId,
    pub flags: TraceFlags,
}

impl From<&SpanContext> for TraceIds {
    fn from(context: &SpanContext) -> Self {
        Self { trace: context.trace_id(), span: context.span_id(), flags: context.trace_flags() }
    }
}

/// Makes the spans of Checks; without OTLP traces it makes none and only reads whose trace a call belongs to.
#[derive(Debug, Clone)]
pub struct Tracer {
    sdk: Option<(SdkTracer, Sampler)>,
}

impl Tracer {
    pub const fn off() -> Self {
        Self { sdk: None }
    }

    /// `ratio` is the share of traces to sample where nobody we trust has decided.
    pub fn new(tracer: SdkTracer, ratio: f64) -> Self {
        Self { sdk: Some((tracer, Sampler::TraceIdRatioBased(ratio))) }
    }

    /// Begins the span of a Check that arrived at `now`. The parent is the context in the gRPC metadata, else the one
    /// in the request's headers; where both are there and of different traces, the second becomes a link.
    pub fn check(&self, now: Now, metadata: TraceHeaders<'_>, request: TraceHeaders<'_>) -> CheckSpan {
        let outer = parse(metadata);
        let inner = if self.sdk.is_some() || outer.is_none() { parse(request) } else { None };
        let Some((tracer, ratio)) = &self.sdk else {
            return CheckSpan { ids: outer.or(inner).as_ref().map(TraceIds::from), running: None };
        };
        let (parent, link) = match (outer, inner) {
            (Some(outer), Some(inner)) if outer.trace_id() != inner.trace_id() => (Some(outer), Some(inner)),
            (Some(outer), _) => (Some(outer), None),
            (None, inner) => (inner.map(|context| resample(&context, ratio)), None),
        };
        let started = UNIX_EPOCH + now.since_epoch();
        let mut builder = tracer.span_builder(METHOD).with_kind(SpanKind::Server).with_start_time(started);
        if let Some(link) = link {
            builder = builder.with_links(vec![Link::with_context(link)]);
        }
        let context = parent.map_or_else(Context::new, |parent| Context::new().with_remote_span_context(parent));
        let span = builder.start_with_context(tracer, &context);
        CheckSpan { ids: Some(span.span_context().into()), running: Some(Running { tracer: tracer.clone(), span, started }) }
    }
}

/// What a finished Check has to tell. Durations count from the `now` of [`Tracer::check`].
#[derive(Debug)]
pub struct Facts<'a> {
    pub decision: Decision,
    pub enforced: bool,
    pub reason: Reason,
    pub mode: Mode,
    pub protocol: Protocol,
    pub decision_id: Uuid,
    pub policy_path: &'a str,
    /// Revision of the policy that decided, where one did.
    pub revision: Option<&'a str>,
    /// The rule that decided, by its author's name.
    pub rule: Option<&'a str>,
    /// Method of the HTTP request asked about.
    pub method: Option<&'a str>,
    /// Name of the action in the catalogue.
    pub action: Option<&'a str>,
    pub class: Class,
    pub tier: Tier,
    /// Level of the caller's risk, where it was weighed.
    pub risk: Option<Level>,
    /// When deciding began and ended.
    pub decide: Range<Duration>,
    /// When the answer was ready.
    pub elapsed: Duration,
    /// Status of our own RPC; a denial is `Ok`.
    pub code: Code,
}

/// The span of a Check that is being decided. Dropped unfinished (the caller has gone away) it ends as it is.
#[derive(Debug)]
#[must_use = "a span is finished with what was decided"]
pub struct CheckSpan {
    ids: Option<TraceIds>,
    running: Option<Running>,
}

struct Running {
    tracer: SdkTracer,
    span: Span,
    started: SystemTime,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("span", self.span.span_context()).finish_non_exhaustive()
    }
}

impl CheckSpan {
    /// Where the decision's record belongs; absent when nobody traces the call.
    pub const fn ids(&self) -> Option<TraceIds> {
        self.ids
    }

    /// Ends the span, with a child `authz.decide` that carries the decision.
    pub fn finish(self, facts: &Facts<'_>) {
        let Some(Running { tracer, mut span, started }) = self.running else { return };
        if !span.is_recording() && changes_state(facts.class) {
            span = sampled_again(&tracer, span.span_context(), started);
        }
        if span.is_recording() {
            let parent = Context::new().with_remote_span_context(span.span_context().clone());
            let mut child = tracer
                .span_builder("authz.decide")
                .with_kind(SpanKind::Internal)
                .with_start_time(started + facts.decide.start)
                .with_attributes(decision_attributes(facts))
                .start_with_context(&tracer, &parent);
            child.end_with_timestamp(started + facts.decide.end);
            let status = status_text(facts.code);
            span.set_attributes([
                KeyValue::new("rpc.system.name", "grpc"),
                KeyValue::new("rpc.method", METHOD),
                KeyValue::new("rpc.status_code", status),
            ]);
            if facts.code != Code::Ok {
                span.set_attribute(KeyValue::new("error.type", status));
                span.set_status(opentelemetry::trace::Status::error(status));
            }
        }
        span.end_with_timestamp(started + facts.elapsed);
    }
}

/// Whether an action of this class is told of whatever the sampling says. What no catalogue lists is left to the sampling.
const fn changes_state(class: Class) -> bool {
    matches!(class, Class::Write | Class::Delete | Class::Execute | Class::Admin)
}

/// A span in the place of one that was sampled out.
fn sampled_again(tracer: &SdkTracer, context: &SpanContext, started: SystemTime) -> Span {
    let flags = context.trace_flags().with_sampled(true);
    let parent = SpanContext::new(context.trace_id(), context.span_id(), flags, true, context.trace_state().clone());
    let builder = tracer.span_builder(METHOD).with_kind(SpanKind::Server).with_start_time(started);
    builder.start_with_context(tracer, &Context::new().with_remote_span_context(parent))
}

/// Follows the caller where it decided, else samples `ratio` of the traces.
pub(super) fn sampler(ratio: f64) -> Sampler {
    Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio)))
}

/// The name of a status, as the semantic conventions write it.
pub const fn status_text(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

fn decision_attributes(facts: &Facts<'_>) -> Vec<KeyValue> {
    let mut attributes = Vec::with_capacity(15);
    attributes.extend([
        KeyValue::new("doorward.decision", facts.decision.as_str()),
        KeyValue::new("doorward.enforced", facts.enforced),
        KeyValue::new("doorward.reason", facts.reason.as_str()),
        KeyValue::new("doorward.mode", facts.mode.as_str()),
        KeyValue::new("doorward.protocol", facts.protocol.as_str()),
        KeyValue::new("doorward.decision_id", facts.decision_id.to_string()),
        KeyValue::new("doorward.policy.path", facts.policy_path.to_owned()),
        KeyValue::new("doorward.action.class", facts.class.as_str()),
        KeyValue::new("doorward.tier", facts.tier.as_str()),
    ]);
    let known = [
        ("doorward.bundle.revision", facts.revision),
        ("doorward.rule", facts.rule),
        ("http.request.method", facts.method),
        ("doorward.action.name", facts.action),
        ("doorward.risk.level", facts.risk.map(Level::as_str)),
    ];
    attributes.extend(known.into_iter().filter_map(|(name, value)| Some(KeyValue::new(name, value?.to_owned()))));
    attributes
}

/// A context that came in the request's own headers may ask not to be sampled, but it can't force it: else anyone
/// could fill the collector. The ratio decides by the trace id, so all who use it decide alike.
fn resample(context: &SpanContext, ratio: &Sampler) -> SpanContext {
    let wanted = context.is_sampled()
        && ratio.should_sample(None, context.trace_id(), METHOD, &SpanKind::Server, &[], &[]).decision
            == SamplingDecision::RecordAndSample;
    let flags = context.trace_flags().with_sampled(wanted);
    SpanContext::new(context.trace_id(), context.span_id(), flags, true, context.trace_state().clone())
}

/// Reads `traceparent` strictly (W3C Trace Context §3.2): lower-case hex, no zero ids, version not `ff`, exactly four
/// fields in version `00`. A bad `tracestate` is left out; a bad `traceparent` is no context.
fn parse(headers: TraceHeaders<'_>) -> Option<SpanContext> {
    let text = headers.parent?.trim_matches([' ', '\t']);
    let (head, rest) = text.split_at_checked(55)?;
    let mut fields = head.split('-');
    let (version, trace, span, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let shaped = version.len() == 2 && trace.len() == 32 && span.len() == 16 && flags.len() == 2 && fields.next().is_none();
    let more = if version == "00" { rest.is_empty() } else { version != "ff" && (rest.is_empty() || rest.starts_with('-')) };
    let hex = head.bytes().all(|byte| matches!(byte, b'-' | b'0'..=b'9' | b'a'..=b'f'));
    if !shaped || !more || !hex {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()? & TraceFlags::SAMPLED.to_u8());
    let state = headers
        .state
        .filter(|state| state.len() <= MAX_TRACE_STATE)
        .and_then(|state| state.parse::<TraceState>().ok())
        .unwrap_or_default();
    let context = SpanContext::new(TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?, flags, true, state);
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::{
        error::OTelSdkResult,
        trace::{SdkTracerProvider, SpanData, SpanExporter},
    };

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(parent: &str) -> TraceHeaders<'_> {
        TraceHeaders { parent: Some(parent), state: None }
    }

    #[test]
    fn only_strict_trace_parents_are_contexts() {
        for good in [
            GOOD,
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-comes-later",
        ] {
            assert!(parse(headers(good)).is_some(), "{good}");
        }
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
            "00-4bf92f3577b34da6a3ce929d0e0e47-3600f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473ü-00f067aa0ba902b7-0",
        ] {
            assert!(parse(headers(bad)).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_bad_trace_state_costs_only_itself() {
        let state = |text: &str| {
            let context = parse(TraceHeaders { parent: Some(GOOD), state: Some(text) }).expect("the parent is good");
            context.trace_state().header()
        };
        assert_eq!(state("a=1,b=2"), "a=1,b=2");
        assert_eq!(state("no list"), "");
        assert_eq!(state(&format!("a={}", "x".repeat(MAX_TRACE_STATE))), "");
    }

    #[test]
    fn without_export_the_callers_trace_is_still_known() {
        let other = "00-11111111111111111111111111111111-2222222222222222-00";
        let ids = |metadata, request| {
            let span = Tracer::off().check(Now { ns: 0 }, metadata, request);
            span.ids().map(|ids| ids.trace.to_string())
        };
        assert_eq!(ids(TraceHeaders::default(), TraceHeaders::default()), None);
        assert_eq!(ids(TraceHeaders::default(), headers(GOOD)).as_deref(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        assert_eq!(ids(headers(other), headers(GOOD)).as_deref(), Some("11111111111111111111111111111111"));
        assert_eq!(ids(headers("bad"), headers(GOOD)).as_deref(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
    }

    /// Keeps the spans it is given.
    #[derive(Debug, Clone, Default)]
    struct Kept(Arc<Mutex<Vec<SpanData>>>);

    impl SpanExporter for Kept {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().expect("no panic").extend(batch);
            Ok(())
        }
    }

    /// The child and the server span of one Check.
    fn spans(ratio: f64, metadata: TraceHeaders<'_>, request: TraceHeaders<'_>) -> Vec<SpanData> {
        spans_of(Class::Read, ratio, metadata, request)
    }

    fn spans_of(class: Class, ratio: f64, metadata: TraceHeaders<'_>, request: TraceHeaders<'_>) -> Vec<SpanData> {
        let kept = Kept::default();
        let provider = SdkTracerProvider::builder().with_sampler(sampler(ratio)).with_simple_exporter(kept.clone()).build();
        let tracer = Tracer::new(provider.tracer("test"), ratio);
        let span = tracer.check(Now::from_seconds(100), metadata, request);
        let ids = span.ids().expect("a span");
        span.finish(&Facts {
            decision: Decision::Deny,
            enforced: true,
            reason: Reason::Policy,
            mode: Mode::Enforce,
            protocol: Protocol::Http,
            decision_id: Uuid::nil(),
            policy_path: "envoy/authz/allow",
            revision: Some("r1"),
            rule: None,
            method: Some("GET"),
            action: Some("orders.read"),
            class,
            tier: Tier::Standard,
            risk: None,
            decide: Duration::from_micros(10)..Duration::from_micros(40),
            elapsed: Duration::from_micros(60),
            code: Code::Ok,
        });
        let spans = kept.0.lock().expect("no panic").clone();
        assert!(spans.iter().all(|span| span.span_context.trace_id() == ids.trace));
        spans
    }

    #[test]
    fn a_check_is_a_server_span_with_the_decision_as_its_child() {
        let spans = spans(1.0, headers(GOOD), TraceHeaders::default());
        let [child, server] = spans.as_slice() else { panic!("two spans, got {spans:?}") };
        assert_eq!((server.name.as_ref(), &server.span_kind), (METHOD, &SpanKind::Server));
        assert_eq!(server.parent_span_id.to_string(), "00f067aa0ba902b7");
        assert_eq!(server.status, opentelemetry::trace::Status::Unset);
        let lasted = server.end_time.duration_since(server.start_time).expect("forwards");
        assert_eq!((server.start_time, lasted), (UNIX_EPOCH + Duration::from_secs(100), Duration::from_micros(60)));
        assert_eq!((child.name.as_ref(), &child.span_kind), ("authz.decide", &SpanKind::Internal));
        assert_eq!(child.parent_span_id, server.span_context.span_id());
        let attribute =
            |name: &str| child.attributes.iter().find(|pair| pair.key.as_str() == name).map(|pair| pair.value.to_string());
        assert_eq!(attribute("doorward.decision").as_deref(), Some("deny"));
        assert_eq!(attribute("doorward.bundle.revision").as_deref(), Some("r1"));
        assert_eq!(attribute("doorward.rule"), None);
    }

    #[test]
    fn what_changes_state_is_never_sampled_out() {
        let unsampled = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        for (class, told) in [(Class::Write, 2), (Class::Admin, 2), (Class::Read, 0), (Class::Unknown, 0)] {
            assert_eq!(spans_of(class, 0.0, headers(unsampled), TraceHeaders::default()).len(), told, "{class:?}");
            assert_eq!(spans_of(class, 0.0, TraceHeaders::default(), TraceHeaders::default()).len(), told, "{class:?}");
        }
    }

    #[test]
    fn the_grpc_context_is_the_parent_and_another_trace_of_the_request_a_link() {
        let other = "00-11111111111111111111111111111111-2222222222222222-01";
        let server = |metadata, request| spans(1.0, metadata, request).pop().expect("a server span");
        let both = server(headers(other), headers(GOOD));
        assert_eq!(both.span_context.trace_id().to_string(), "11111111111111111111111111111111");
        let links: Vec<_> = both.links.iter().map(|link| link.span_context.span_id().to_string()).collect();
        assert_eq!(links, ["00f067aa0ba902b7"]);
        let same = server(headers(GOOD), headers("00-4bf92f3577b34da6a3ce929d0e0e4736-3333333333333333-01"));
        assert!(same.links.is_empty());
        assert_eq!(server(TraceHeaders::default(), headers(GOOD)).parent_span_id.to_string(), "00f067aa0ba902b7");
        assert_eq!(server(TraceHeaders::default(), TraceHeaders::default()).parent_span_id, SpanId::INVALID);
    }

    #[test]
    fn envoy_decides_about_sampling_and_the_request_does_not() {
        assert_eq!(spans(0.0, headers(GOOD), TraceHeaders::default()).len(), 2);
        assert_eq!(spans(0.0, TraceHeaders::default(), headers(GOOD)).len(), 0);
        assert_eq!(spans(0.0, TraceHeaders::default(), TraceHeaders::default()).len(), 0);
        assert_eq!(spans(1.0, headers(&GOOD.replace("-01", "-00")), TraceHeaders::default()).len(), 0);
    }

    #[test]
    fn a_request_cannot_force_sampling() {
        let context = parse(headers(GOOD)).expect("a context");
        assert!(!resample(&context, &Sampler::TraceIdRatioBased(0.0)).is_sampled());
        assert!(resample(&context, &Sampler::TraceIdRatioBased(1.0)).is_sampled());
        let unwanted = parse(headers("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00")).expect("a context");
        assert!(!resample(&unwanted, &Sampler::TraceIdRatioBased(1.0)).is_sampled());
    }
}
