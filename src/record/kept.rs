//! A line of the records read back: what was asked, and when, so that it can be asked again. What the mask hid stays
//! hidden, and is named.

use chrono::DateTime;
use serde_json::Value;

use super::mask;
use crate::{
    clock::Now,
    policy::{Drawn, drawn_of},
};

/// A decision that was recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    pub id: String,
    pub at: Now,
    pub decision: String,
    pub reason: String,
    /// Of the policy that decided.
    pub revision: Option<String>,
    pub input: Value,
    pub drawn: Drawn,
    /// Paths of members of the input that are not as they were: masked, or left out.
    pub masked: Vec<String>,
}

/// Why a record cannot be asked again.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("is a record of kind `{0}`; only a `decision` can be asked again")]
    Kind(String),
    #[error("is a record without an input: {0}; ask with the request itself")]
    NoInput(String),
    #[error("is no record: `{0}` is missing or has another form")]
    Form(&'static str),
}

/// Whether `value` has the envelope of a record.
pub fn is_record(value: &Value) -> bool {
    ["v", "id", "kind", "body"].iter().all(|key| value.get(key).is_some())
}

/// Reads the record of a decision.
pub fn read(record: &Value) -> Result<Kept, ReadError> {
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let kind = text(record, "kind").ok_or(ReadError::Form("kind"))?;
    if kind != "decision" {
        return Err(ReadError::Kind(kind));
    }
    let body = record.get("body").ok_or(ReadError::Form("body"))?;
    let left_out: Vec<String> = body
        .get("input_truncated")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let Some(input) = body.get("input") else {
        let why = match text(body, "input_error") {
            Some(error) => error,
            None if left_out.is_empty() => "none was kept".to_owned(),
            None => "it was too long".to_owned(),
        };
        return Err(ReadError::NoInput(why));
    };
    let at = text(record, "at").and_then(|at| DateTime::parse_from_rfc3339(&at).ok()?.timestamp_nanos_opt());
    let mut masked: Vec<String> = left_out.into_iter().map(|path| format!("{path} (left out)")).collect();
    mask::find(input, "", &mut masked);
    Ok(Kept {
        id: text(record, "id").ok_or(ReadError::Form("id"))?,
        at: Now { ns: at.and_then(|at| u64::try_from(at).ok()).ok_or(ReadError::Form("at"))? },
        decision: text(body, "decision").ok_or(ReadError::Form("body.decision"))?,
        reason: text(body, "reason").ok_or(ReadError::Form("body.reason"))?,
        revision: body.get("policy").and_then(|policy| text(policy, "revision")),
        input: input.clone(),
        drawn: body.get("nd_builtin_cache").map(drawn_of).unwrap_or_default(),
        masked,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(body: &Value) -> Value {
        json!({"v": 1, "id": "i", "kind": "decision", "at": "2026-11-22T06:47:00.000000001Z", "instance": "x", "seq": 1, "body": body})
    }

    #[test]
    fn a_decision_is_read_with_what_is_hidden() {
        let masked = format!("hmac-sha256:{}", "0".repeat(32));
        let input = json!({
            "attributes": {
                "request": {"http": {"headers": {"authorization": masked, "x-a": "1"}, "path": format!("/a?token={masked}")}},
                "source": {"certificate": format!("sha256:{}", "a".repeat(64))},
            },
            "list": [{"pin": "masked"}],
        });
        let body = json!({
            "decision": "deny", "reason": "policy", "policy": {"path": "p", "revision": "r", "digest": "d"},
            "input": input, "input_truncated": ["parsed_body"], "nd_builtin_cache": {"rand.intn": {"[\"a\",2]": 1}, "other": {"[]": 1}},
        });
        let kept = read(&record(&body)).unwrap();
        assert_eq!(kept.at.ns % 10, 1);
        assert_eq!(kept.drawn["rand.intn"]["[\"a\",2]"], json!(1));
        assert_eq!(kept.drawn.len(), 1);
        assert_eq!(
            kept.masked,
            [
                "parsed_body (left out)",
                "attributes.request.http.headers.authorization",
                "attributes.request.http.path",
                "attributes.source.certificate",
                "list.0.pin"
            ]
        );
        assert_eq!((kept.decision.as_str(), kept.revision.as_deref()), ("deny", Some("r")));
    }

    #[test]
    fn what_cannot_be_asked_again_says_why() {
        let decision = |body: Value| read(&record(&body)).unwrap_err().to_string();
        assert!(decision(json!({"input_error": "mask_failed"})).contains("mask_failed"));
        assert!(decision(json!({"input_truncated": ["input"]})).contains("too long"));
        assert!(decision(json!({"input": {}})).contains("`body.decision`"));
        let shadow = json!({"v": 1, "id": "i", "kind": "shadow", "body": {}});
        assert!(is_record(&shadow) && read(&shadow).unwrap_err().to_string().contains("`shadow`"));
        assert!(!is_record(&json!({"attributes": {}})));
    }
}
