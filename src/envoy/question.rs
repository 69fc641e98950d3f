//! A CheckRequest as it was kept or is written down: in protobuf, in JSON, or as a line like curl's. Each becomes the
//! message that Envoy would have sent, and is read by `decode` like any other.

mod json;

use std::collections::{BTreeMap, HashMap};

use envoy_types::{
    ext_authz::v3::pb::CheckRequest,
    pb::{
        envoy::service::auth::v3::{
            AttributeContext,
            attribute_context::{HttpRequest, Peer, Request},
        },
        google::protobuf::Timestamp,
    },
};
use prost::Message as _;
use serde_json::Value;

use super::decode::{Decoded, Settings, decode};
use crate::clock::Now;

/// Why something is no CheckRequest.
#[derive(Debug, thiserror::Error)]
pub enum QuestionError {
    #[error("is no CheckRequest in protobuf")]
    Protobuf(#[source] prost::DecodeError),
    #[error("is no CheckRequest in JSON: `{path}`")]
    Json {
        path: String,
        #[source]
        source: serde_json::Error,
    },
}

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Question(CheckRequest);

impl Question {
    pub fn from_protobuf(bytes: &[u8]) -> Result<Self, QuestionError> {
        CheckRequest::decode(bytes).map(Self).map_err(QuestionError::Protobuf)
    }

    /// From proto3 JSON, with names in either spelling, or from `{"attributes": …}` as the input document shows it.
    pub fn from_json(value: Value) -> Result<Self, QuestionError> {
        let check: Result<json::Check, _> = serde_path_to_error::deserialize(value);
        check
            .map(|check| Self(check.into()))
            .map_err(|error| QuestionError::Json { path: error.path().to_string(), source: error.into_inner() })
    }

    /// The request that Envoy would have sent for `line`.
    pub fn from_line(line: Line) -> Self {
        let Line { method, path, host, headers, body, principal, at } = line;
        let mut joined: BTreeMap<String, String> = BTreeMap::new();
        let pseudo = [(":method", &method), (":path", &path), (":authority", &host), (":scheme", &"https".to_owned())];
        let pseudo = pseudo.map(|(name, value)| (name.to_owned(), value.clone()));
        for (name, value) in pseudo.into_iter().chain(headers) {
            joined
                .entry(name.to_ascii_lowercase())
                .and_modify(|all| *all = format!("{all},{value}"))
                .or_insert_with(|| value.clone());
        }
        if !body.is_empty() {
            joined.entry("content-length".to_owned()).or_insert_with(|| body.len().to_string());
        }
        let http = HttpRequest {
            method,
            path,
            host,
            scheme: "https".to_owned(),
            protocol: "HTTP/2".to_owned(),
            headers: joined.into_iter().collect::<HashMap<_, _>>(),
            size: i64::try_from(body.len()).unwrap_or(i64::MAX),
            raw_body: body,
            ..HttpRequest::default()
        };
        let time = Timestamp { seconds: at.seconds(), nanos: i32::try_from(at.since_epoch().subsec_nanos()).unwrap_or(0) };
        Self(CheckRequest {
            attributes: Some(AttributeContext {
                source: Some(Peer { principal, ..Peer::default() }),
                destination: Some(Peer::default()),
                request: Some(Request { time: Some(time), http: Some(http) }),
                ..AttributeContext::default()
            }),
        })
    }

    pub fn decode(self, settings: &Settings) -> Decoded {
        decode(self.0, settings)
    }
}

/// A request in the words of a command line.
#[derive(Debug, Clone)]
pub struct Line {
    pub method: String,
    /// With its query.
    pub path: String,
    pub host: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// What Envoy read from the peer's certificate.
    pub principal: String,
    pub at: Now,
}

#[cfg(test)]
mod tests;
