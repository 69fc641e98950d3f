//! `input.parsed_body` and `input.truncated_body`, as opa-envoy-plugin gives them, and one case that the plugin does
//! not see: a body cut at exactly Envoy's limit.
//!
//! This file tells bodies apart and knows which are cut; `grpc` and `multipart` read the two that have a form of their
//! own.

mod grpc;
mod media;
mod multipart;

use prost_reflect::DescriptorPool;
use serde_json::Value;
use thiserror::Error;

use self::{grpc::GrpcError, multipart::MultipartError};
use super::{
    json::{self, JsonError},
    query::{self, QueryError},
};
use crate::request::{Body, Headers};

/// Why a body cannot be read.
#[derive(Debug, Error)]
pub enum BodyError {
    #[error("`content-length` is not an integer")]
    ContentLength,
    #[error("json: {0}")]
    Json(JsonError),
    #[error("form: {0}")]
    Form(QueryError),
    #[error("gRPC: {0}")]
    Grpc(GrpcError),
    #[error("multipart: {0}")]
    Multipart(MultipartError),
}

/// What else is known about a call than its headers and body.
#[derive(Debug, Clone, Copy, Default)]
pub struct Context<'a> {
    /// Envoy's `max_request_bytes`.
    pub limit: Option<usize>,
    pub descriptors: Option<&'a DescriptorPool>,
    /// `input.parsed_path`: service and method of a gRPC call.
    pub path: &'a [String],
}

/// Reads a body by its content type. `text` is used when there is some, else `raw` (Envoy's `pack_as_bytes`).
///
/// With a `limit` in `context`, a body that reaches it is taken as cut unless its `content-length` says
/// that it ends there: Envoy asks as soon as it has that many bytes, and then says `x-envoy-auth-partial-body: false`
/// although more may follow.
pub fn parse(headers: &Headers, text: &str, raw: &[u8], context: &Context<'_>) -> Result<Body, BodyError> {
    if headers.get("x-envoy-auth-partial-body") == Some("true") {
        return Ok(Body::Truncated);
    }
    let payload = if text.is_empty() { raw } else { text.as_bytes() };
    if payload.is_empty() {
        return Ok(Body::None);
    }
    let kind = Kind::of(headers);
    let length = headers.get("content-length").map(str::parse::<i64>);
    let size = i64::try_from(payload.len()).unwrap_or(i64::MAX);
    if kind.has_length_rule() {
        match length {
            Some(Err(_)) => return Err(BodyError::ContentLength),
            Some(Ok(length)) if length > size => return Ok(Body::Truncated),
            _ => {}
        }
    }
    let ends_here = length == Some(Ok(size));
    if !ends_here && context.limit.is_some_and(|limit| payload.len() >= limit) {
        return Ok(Body::Truncated);
    }
    match kind {
        Kind::Json => json::parse(payload).map(Body::Parsed).map_err(BodyError::Json),
        Kind::Form => form(payload).map(Body::Parsed).map_err(BodyError::Form),
        Kind::Grpc => match context.descriptors {
            // The text form of a body has lost what is no UTF-8, so it is never read as gRPC.
            Some(pool) if !raw.is_empty() => grpc::parse(pool, context.path, raw).map_err(BodyError::Grpc),
            _ => Ok(Body::None),
        },
        Kind::Multipart => {
            let parsed = multipart::parse(headers.get("content-type").unwrap_or_default(), payload);
            parsed.map(|parsed| parsed.map_or(Body::None, Body::Parsed)).map_err(BodyError::Multipart)
        }
        Kind::Other => Ok(Body::None),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Json,
    Grpc,
    Form,
    Multipart,
    Other,
}

impl Kind {
    /// The plugin looks for a part of the header, in this order and with these cases, so that `Application/JSON` and
    /// `application/vnd.x+json` are not read and `text/x; was=application/json` is.
    fn of(headers: &Headers) -> Self {
        let Some(value) = headers.get("content-type") else { return Self::Other };
        [
            ("application/json", Self::Json),
            ("application/grpc", Self::Grpc),
            ("application/x-www-form-urlencoded", Self::Form),
            ("multipart/form-data", Self::Multipart),
        ]
        .into_iter()
        .find(|(part, _)| value.contains(part))
        .map_or(Self::Other, |(_, kind)| kind)
    }

    /// gRPC has its own lengths, one before each message.
    const fn has_length_rule(self) -> bool {
        matches!(self, Self::Json | Self::Form | Self::Multipart)
    }
}

fn form(payload: &[u8]) -> Result<Value, QueryError> {
    let fields = query::parse(&String::from_utf8_lossy(payload))?;
    Ok(Value::Object(fields.into_iter().map(|(key, values)| (key, Value::from(values))).collect()))
}

#[cfg(test)]
pub use self::grpc::tests::descriptors as descriptors_of_tests;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const JSON: &str = "application/json";
    const FORM: &str = "application/x-www-form-urlencoded";
    const MULTIPART: &str = "multipart/form-data; boundary=x";

    fn headers(list: &[(&str, &str)]) -> Headers {
        Headers::from_map(list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    fn read(list: &[(&str, &str)], text: &str) -> Result<Body, String> {
        parse(&headers(list), text, b"", &Context::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn content_types_are_matched_as_the_plugin_does() {
        for (kind, expected) in [
            ("application/json", Kind::Json),
            ("application/json; charset=utf-8", Kind::Json),
            ("text/x; was=application/json", Kind::Json),
            ("application/grpc", Kind::Grpc),
            ("application/grpc-web+json", Kind::Grpc),
            ("application/x-www-form-urlencoded", Kind::Form),
            (MULTIPART, Kind::Multipart),
            ("application/grpc, application/json", Kind::Json),
            ("Application/JSON", Kind::Other),
            ("application/vnd.x+json", Kind::Other),
            ("text/plain", Kind::Other),
            ("", Kind::Other),
        ] {
            assert_eq!(Kind::of(&headers(&[("content-type", kind)])), expected, "{kind}");
        }
        assert_eq!(Kind::of(&headers(&[])), Kind::Other);
    }

    #[test]
    fn d19_content_length_rules_of_json_form_and_multipart() {
        for (kind, text, parsed) in
            [(JSON, "{}", Body::Parsed(json!({}))), (FORM, "a=", Body::Parsed(json!({"a": [""]}))), (MULTIPART, "--", Body::None)]
        {
            let at = |length: &str| read(&[("content-type", kind), ("content-length", length)], text);
            for length in ["2", "+2", "1", "0", "-1"] {
                // Two bytes are no multipart body: it is read, and refused.
                let read = if kind == MULTIPART {
                    Err("multipart: no boundary where a part should begin".to_owned())
                } else {
                    Ok(parsed.clone())
                };
                assert_eq!(at(length), read, "{kind} {length}");
            }
            for length in ["3", "9223372036854775807"] {
                assert_eq!(at(length), Ok(Body::Truncated), "{kind} {length}");
            }
            for length in ["abc", "", " 2", "2,2", "9223372036854775808"] {
                assert_eq!(at(length), Err("`content-length` is not an integer".to_owned()), "{kind} {length}");
            }
        }
    }

    #[test]
    fn content_length_says_nothing_for_other_types() {
        for kind in ["application/grpc", "text/plain"] {
            for length in ["100", "abc"] {
                assert_eq!(read(&[("content-type", kind), ("content-length", length)], "{}"), Ok(Body::None), "{kind}");
            }
        }
    }

    #[test]
    fn d16_partial_body_header_wins_over_everything() {
        for kind in [JSON, FORM, MULTIPART, "application/grpc", "text/plain"] {
            let list = [("content-type", kind), ("content-length", "abc"), ("x-envoy-auth-partial-body", "true")];
            assert_eq!(read(&list, "{"), Ok(Body::Truncated), "{kind}");
            assert_eq!(read(&list, ""), Ok(Body::Truncated), "{kind}");
        }
        assert_eq!(read(&[("x-envoy-auth-partial-body", "true")], ""), Ok(Body::Truncated));
        let list = [("content-type", JSON), ("x-envoy-auth-partial-body", "false")];
        assert_eq!(read(&list, "1"), Ok(Body::Parsed(json!(1))));
    }

    #[test]
    fn d20_empty_body_is_null_and_whole_even_with_a_length() {
        for kind in [JSON, FORM, MULTIPART] {
            for length in ["0", "100", "abc"] {
                assert_eq!(read(&[("content-type", kind), ("content-length", length)], ""), Ok(Body::None), "{kind}");
            }
        }
    }

    #[test]
    fn d21_bad_json_and_trailing_garbage_are_errors() {
        for text in ["{", "{} x", "{\"a\":1}]"] {
            assert!(read(&[("content-type", JSON)], text).unwrap_err().starts_with("json: "), "{text}");
        }
        assert_eq!(read(&[("content-type", "text/plain")], "{"), Ok(Body::None));
    }

    #[test]
    fn d21b_body_of_exactly_the_limit_is_cut_unless_its_length_says_otherwise() {
        let at = |list: &[(&str, &str)], text: &str, limit| {
            parse(&headers(list), text, b"", &Context { limit, ..Context::default() }).unwrap()
        };
        let json = ("content-type", JSON);
        let partial = ("x-envoy-auth-partial-body", "false");
        let whole = Body::Parsed(json!([1]));
        assert_eq!(at(&[json, partial], "[1]", Some(3)), Body::Truncated);
        assert_eq!(at(&[json, partial, ("content-length", "3")], "[1]", Some(3)), whole);
        assert_eq!(at(&[json, partial, ("content-length", "-1")], "[1]", Some(3)), Body::Truncated);
        assert_eq!(at(&[json, partial], "[1]", Some(2)), Body::Truncated, "limit of Envoy above ours");
        assert_eq!(at(&[json, partial], "[1]", Some(4)), whole);
        assert_eq!(at(&[json, partial], "[1]", None), whole);
        for kind in [FORM, MULTIPART, "application/grpc", "text/plain"] {
            assert_eq!(at(&[("content-type", kind)], "a=1", Some(3)), Body::Truncated, "{kind}");
            assert_eq!(at(&[("content-type", kind), ("content-length", "4")], "a=1", Some(3)), Body::Truncated, "{kind}");
        }
        assert_eq!(at(&[json], "", Some(0)), Body::None);
    }

    #[test]
    fn d22_raw_body_is_read_like_body_and_only_without_one() {
        let list = headers(&[("content-type", JSON)]);
        assert_eq!(parse(&list, "", b"{\"a\":\"\xff\"}", &Context::default()).unwrap(), Body::Parsed(json!({"a": "\u{fffd}"})));
        assert_eq!(parse(&list, "1", b"2", &Context::default()).unwrap(), Body::Parsed(json!(1)));
        let list = headers(&[("content-type", FORM)]);
        assert_eq!(parse(&list, "", b"a=%ff&a=2", &Context::default()).unwrap(), Body::Parsed(json!({"a": ["\u{fffd}", "2"]})));
    }

    #[test]
    fn d23_duplicate_keys_and_big_numbers() {
        let json = [("content-type", JSON)];
        assert_eq!(read(&json, r#"{"a":1,"a":2}"#), Ok(Body::Parsed(json!({"a": 2}))));
        let Ok(Body::Parsed(number)) = read(&json, "12345678901234567890.5") else { panic!("not read") };
        assert!(number.is_number());
        assert_eq!(number.to_string(), "12345678901234567890.5");
    }

    #[test]
    fn d24_other_spellings_of_json_are_null() {
        for kind in ["Application/JSON", "application/vnd.api+json"] {
            assert_eq!(read(&[("content-type", kind)], "{"), Ok(Body::None), "{kind}");
        }
    }

    #[test]
    fn d25_form_fields_are_lists_and_errors_are_named() {
        let form = [("content-type", FORM)];
        assert_eq!(read(&form, "a=1&b=x+y&a=2"), Ok(Body::Parsed(json!({"a": ["1", "2"], "b": ["x y"]}))));
        assert_eq!(read(&form, "a=1;b=2"), Err("form: semicolon where `&` separates parameters".to_owned()));
        assert_eq!(read(&form, "a=%zz"), Err("form: invalid percent-escape `%zz`".to_owned()));
        assert_eq!(read(&form, &"a&".repeat(10_000)), Err("form: more than 10000 parameters".to_owned()));
        assert_eq!(read(&[("content-type", MULTIPART)], "--x\r\n"), Err("multipart: a part has no end".to_owned()));
        assert_eq!(read(&[("content-type", "multipart/form-data")], "--x\r\n"), Ok(Body::None));
    }

    #[test]
    fn d26_grpc_bodies_without_descriptors_or_raw_bytes_are_null() {
        let list = headers(&[("content-type", "application/grpc")]);
        assert_eq!(parse(&list, "", b"\0\0\0\0\x05abc", &Context::default()).unwrap(), Body::None);
        let pool = DescriptorPool::decode(descriptors_of_tests().as_slice()).unwrap();
        let path = ["shop.Orders".to_owned(), "Place".to_owned()];
        let context = Context { limit: None, descriptors: Some(&pool), path: &path };
        let frame = b"\0\0\0\0\x02\x10\x03";
        assert_eq!(parse(&list, "", frame, &context).unwrap(), Body::Parsed(json!({"count": 3})));
        let text = str::from_utf8(frame).unwrap();
        assert_eq!(parse(&list, text, b"", &context).unwrap(), Body::None);
        assert_eq!(
            parse(&list, "", frame, &Context { path: &[], ..context }).unwrap_err().to_string(),
            "gRPC: path of 0 segments, a gRPC call has two"
        );
    }
}
