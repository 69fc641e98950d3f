//! What Envoy would be answered, in a form for people.

use envoy_types::pb::{
    envoy::{
        config::core::v3::{HeaderValueOption, QueryParameter, header_value_option::HeaderAppendAction},
        service::auth::v3::{DeniedHttpResponse, OkHttpResponse, check_response::HttpResponse},
    },
    google::rpc,
};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{decode::metadata::object, encode::Reply};

/// Envoy's own status for a denial that has none.
const FORBIDDEN: i32 = 403;

/// One answer. What is empty is left out.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Shown {
    /// Whether Envoy lets the call through.
    pub allowed: bool,
    /// Text of the gRPC error that there is instead of a response, which Envoy treats by `failure_mode_allow`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_error: Option<String>,
    /// What the client gets on a denial.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<i32>,
    /// For the upstream on an allow, for the client on a denial.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<Header>,
    /// For the client, on an allow.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub response_headers: Vec<Header>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub removed_headers: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub query_set: Vec<(String, String)>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub query_removed: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub body: String,
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub dynamic_metadata: Map<String, Value>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Header {
    pub name: String,
    pub value: String,
    /// Beside what is there, not in its place.
    pub append: bool,
}

/// Reads an answer back.
pub fn shown(reply: Reply) -> Shown {
    let response = match reply {
        Reply::Response(response) => response,
        Reply::Error(status) => return Shown { grpc_error: Some(status.message().to_owned()), ..Shown::default() },
    };
    let allowed = response.status.is_some_and(|status| status.code == i32::from(rpc::Code::Ok));
    let shown =
        Shown { allowed, dynamic_metadata: response.dynamic_metadata.map(object).unwrap_or_default(), ..Shown::default() };
    match response.http_response {
        Some(HttpResponse::OkResponse(ok)) => to_upstream(ok, shown),
        Some(HttpResponse::DeniedResponse(denied)) => to_client(denied, shown),
        Some(HttpResponse::ErrorResponse(_)) | None => shown,
    }
}

fn to_upstream(response: OkHttpResponse, shown: Shown) -> Shown {
    Shown {
        headers: headers(response.headers),
        response_headers: headers(response.response_headers_to_add),
        removed_headers: response.headers_to_remove,
        query_set: response.query_parameters_to_set.into_iter().map(|QueryParameter { key, value }| (key, value)).collect(),
        query_removed: response.query_parameters_to_remove,
        ..shown
    }
}

fn to_client(response: DeniedHttpResponse, shown: Shown) -> Shown {
    let status = response.status.map_or(FORBIDDEN, |status| status.code);
    Shown { status: Some(status), headers: headers(response.headers), body: response.body, ..shown }
}

fn headers(options: Vec<HeaderValueOption>) -> Vec<Header> {
    let header = |option: HeaderValueOption| {
        let append = option.append_action == i32::from(HeaderAppendAction::AppendIfExistsOrAdd);
        option.header.map(|header| Header { name: header.key, value: header.value, append })
    };
    options.into_iter().filter_map(header).collect()
}
