//! The OpenTelemetry log event of a decision: a copy for those who search telemetry. It may be lost on its way; the
//! record itself is the line that `writer` writes.

use std::time::UNIX_EPOCH;

use opentelemetry::logs::{AnyValue, LogRecord as _, Logger as _, Severity};
use opentelemetry_sdk::logs::SdkLogger;

use super::{DecisionRecord, Record};

/// Name of the event, and its body.
const NAME: &str = "doorward.decision";

/// Hands a copy to the log exporter's queue, without waiting. It carries no input, so nothing in it needs a mask.
pub(super) fn emit(logger: &SdkLogger, record: &Record, decision: &DecisionRecord) {
    let mut event = logger.create_log_record();
    event.set_event_name(NAME);
    event.set_target("doorward");
    event.set_timestamp(UNIX_EPOCH + record.at.since_epoch());
    event.set_severity_number(Severity::Info);
    event.set_severity_text("INFO");
    event.set_body(AnyValue::from(NAME));
    if let Some(ids) = decision.trace {
        event.set_trace_context(ids.trace, ids.span, Some(ids.flags));
    }
    event.add_attributes([
        ("doorward.decision", AnyValue::from(decision.decision.as_str())),
        ("doorward.enforced", AnyValue::Boolean(decision.enforced)),
        ("doorward.reason", AnyValue::from(decision.reason.as_str())),
        ("doorward.mode", AnyValue::from(decision.mode.as_str())),
        ("doorward.protocol", AnyValue::from(decision.protocol.as_str())),
        ("doorward.decision_id", AnyValue::from(record.id.to_string())),
        ("doorward.latency_us", AnyValue::Int(i64::try_from(decision.latency.as_micros()).unwrap_or(i64::MAX))),
    ]);
    let policy = decision.policy.as_ref();
    let known = [
        ("doorward.policy.path", policy.map(|policy| &*policy.path)),
        ("doorward.bundle.revision", policy.and_then(|policy| policy.revision.as_deref())),
        ("doorward.rule", decision.rule.as_deref()),
        ("doorward.principal", decision.principal.as_deref()),
        ("doorward.peer.spiffe_id", decision.peer.as_ref().map(|peer| &*peer.spiffe_id)),
        ("doorward.peer.evidence", decision.peer.as_ref().map(|peer| peer.evidence.as_str())),
    ];
    event.add_attributes(known.into_iter().filter_map(|(name, value)| Some((name, AnyValue::from(value?.to_owned())))));
    logger.emit(event);
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use opentelemetry::logs::LoggerProvider as _;
    use opentelemetry_sdk::{
        error::OTelSdkResult,
        logs::{LogBatch, LogExporter, SdkLogRecord, SdkLoggerProvider},
    };
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::{
        clock::Now,
        record::{Body, tests::decision},
    };

    /// Keeps the events it is given.
    #[derive(Debug, Clone, Default)]
    struct Kept(Arc<Mutex<Vec<SdkLogRecord>>>);

    impl LogExporter for Kept {
        async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
            self.0.lock().expect("no panic").extend(batch.iter().map(|(event, _)| event.clone()));
            Ok(())
        }
    }

    #[test]
    fn the_copy_names_the_decision_and_its_trace_and_no_input() {
        let kept = Kept::default();
        let logger = SdkLoggerProvider::builder().with_simple_exporter(kept.clone()).build().logger("test");
        let body = || Arc::new(decision(json!({"parsed_body": "not for telemetry"})));
        let record = Record { id: Uuid::nil(), at: Now::from_seconds(5), body: Body::Decision(body()) };
        emit(&logger, &record, &body());
        let events = kept.0.lock().expect("no panic").clone();
        let [event] = events.as_slice() else { panic!("one event, got {events:?}") };
        assert_eq!(event.event_name(), Some("doorward.decision"));
        assert_eq!(event.severity_number(), Some(Severity::Info));
        assert_eq!(event.trace_context().map(|context| context.trace_id), body().trace.map(|ids| ids.trace));
        let attributes: Vec<_> = event.attributes_iter().map(|(key, _)| key.as_str()).collect();
        assert!(attributes.contains(&"doorward.decision") && attributes.contains(&"doorward.peer.spiffe_id"));
        assert!(!format!("{event:?}").contains("not for telemetry"));
    }
}
