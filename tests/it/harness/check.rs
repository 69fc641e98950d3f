//! CheckRequests as Envoy makes them, and what comes back in a form that tests can read.

use std::collections::{BTreeMap, HashMap};

use envoy_types::{
    ext_authz::v3::pb::{CheckRequest, CheckResponse, HttpResponse},
    pb::{
        envoy::{
            config::core::v3::{Address, HeaderMap, HeaderValue, HeaderValueOption, SocketAddress, address, socket_address},
            service::auth::v3::{
                AttributeContext,
                attribute_context::{HttpRequest, Peer, Request},
            },
        },
        google::protobuf::{Struct, Timestamp, Value as PbValue, value::Kind},
    },
};
use serde_json::{Map, Value, json};

/// A request under construction.
#[derive(Clone)]
pub struct Check(pub CheckRequest);

impl Check {
    pub fn http(method: &str, path: &str) -> Self {
        let headers = [(":method", method), (":path", path), (":authority", "shop.example"), (":scheme", "https")];
        let http = HttpRequest {
            id: "1234567890".to_owned(),
            method: method.to_owned(),
            path: path.to_owned(),
            host: "shop.example".to_owned(),
            scheme: "https".to_owned(),
            protocol: "HTTP/2".to_owned(),
            headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            ..HttpRequest::default()
        };
        let time = Timestamp { seconds: 1_790_000_000, nanos: 5 };
        let mut check = Self::tcp();
        check.attributes().request = Some(Request { time: Some(time), http: Some(http) });
        check
    }

    pub fn tcp() -> Self {
        let peer = |address: &str, port| Peer {
            address: Some(Address {
                address: Some(address::Address::SocketAddress(SocketAddress {
                    address: address.to_owned(),
                    port_specifier: Some(socket_address::PortSpecifier::PortValue(port)),
                    ..SocketAddress::default()
                })),
            }),
            ..Peer::default()
        };
        let attributes = AttributeContext {
            source: Some(peer("10.0.0.7", 41234)),
            destination: Some(peer("10.0.0.8", 8443)),
            ..AttributeContext::default()
        };
        Self(CheckRequest { attributes: Some(attributes) })
    }

    fn attributes(&mut self) -> &mut AttributeContext {
        self.0.attributes.as_mut().unwrap()
    }

    pub fn http_part(&mut self) -> &mut HttpRequest {
        self.attributes().request.as_mut().unwrap().http.as_mut().unwrap()
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.http_part().headers.insert(name.to_owned(), value.to_owned());
        self
    }

    /// What the test policy shall answer.
    pub fn decision(self, value: &Value) -> Self {
        self.header("x-decision", &value.to_string())
    }

    pub fn body(mut self, kind: &str, body: &str) -> Self {
        self.http_part().body = body.to_owned();
        self.header("content-type", kind)
    }

    pub fn raw_headers(mut self, headers: &[(&str, &[u8])]) -> Self {
        let http = self.http_part();
        let known = std::mem::take(&mut http.headers).into_iter().map(|(key, value)| (key, value.into_bytes()));
        let more = headers.iter().map(|(key, value)| ((*key).to_owned(), value.to_vec()));
        let entry = |(key, raw_value)| HeaderValue { key, raw_value, ..HeaderValue::default() };
        http.header_map = Some(HeaderMap { headers: known.chain(more).map(entry).collect() });
        self
    }

    pub fn certificate(mut self, url_encoded: &str) -> Self {
        self.attributes().source.as_mut().unwrap().certificate = url_encoded.to_owned();
        self
    }

    pub fn principal(mut self, text: &str) -> Self {
        self.attributes().source.as_mut().unwrap().principal = text.to_owned();
        self
    }

    pub fn change(mut self, change: impl FnOnce(&mut AttributeContext)) -> Self {
        change(self.attributes());
        self
    }
}

/// A readable CheckResponse.
#[derive(Debug)]
pub struct Answer {
    pub code: i32,
    /// HTTP status of a denial.
    pub status: Option<i32>,
    pub body: Option<String>,
    /// `name: value` with `+` in front where it is appended, in order.
    pub headers: Vec<String>,
    pub response_headers: Vec<String>,
    pub removed: Vec<String>,
    pub query_set: Vec<(String, String)>,
    pub query_removed: Vec<String>,
    pub metadata: Value,
    pub has_http: bool,
}

impl Answer {
    pub fn read(response: CheckResponse) -> Self {
        let status = response.status.expect("an explicit status: a response without one is an allow");
        let mut answer = Self {
            code: status.code,
            status: None,
            body: None,
            headers: Vec::new(),
            response_headers: Vec::new(),
            removed: Vec::new(),
            query_set: Vec::new(),
            query_removed: Vec::new(),
            metadata: response.dynamic_metadata.map(|metadata| json_object(&metadata)).unwrap_or_default(),
            has_http: response.http_response.is_some(),
        };
        match response.http_response {
            Some(HttpResponse::OkResponse(ok)) => {
                answer.headers = ok.headers.iter().map(line).collect();
                answer.response_headers = ok.response_headers_to_add.iter().map(line).collect();
                answer.removed = ok.headers_to_remove;
                answer.query_set = ok.query_parameters_to_set.into_iter().map(|query| (query.key, query.value)).collect();
                answer.query_removed = ok.query_parameters_to_remove;
            }
            Some(HttpResponse::DeniedResponse(denied)) => {
                answer.status = denied.status.map(|status| status.code);
                answer.headers = denied.headers.iter().map(line).collect();
                answer.body = Some(denied.body);
            }
            _ => {}
        }
        answer
    }

    /// The headers without those that Doorward adds by itself.
    pub fn policy_headers(&self) -> Vec<&str> {
        self.headers
            .iter()
            .map(String::as_str)
            .filter(|line| !line.contains("x-doorward-") && !line.contains("stream-duration"))
            .collect()
    }

    pub fn input(&self) -> &Value {
        &self.metadata["input"]
    }
}

fn line(option: &HeaderValueOption) -> String {
    let header = option.header.as_ref().unwrap();
    #[expect(deprecated, reason = "we set it beside `append_action`, for Envoys that read only one of the two")]
    let append = option.append.as_ref().is_some_and(|append| append.value);
    format!("{}{}: {}", if append { "+" } else { "" }, header.key, header.value)
}

fn json_object(object: &Struct) -> Value {
    Value::Object(
        object
            .fields
            .iter()
            .map(|(key, value)| (key.clone(), json_value(value)))
            .collect::<BTreeMap<_, _>>()
            .into_iter()
            .collect::<Map<_, _>>(),
    )
}

fn json_value(value: &PbValue) -> Value {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        // Whole numbers print as such, so that a test can write `1`.
        #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and small")]
        Some(Kind::NumberValue(number)) if number.fract() == 0.0 && number.abs() < 1e15 => json!(*number as i64),
        Some(Kind::NumberValue(number)) => json!(number),
        Some(Kind::StringValue(text)) => json!(text),
        Some(Kind::BoolValue(value)) => json!(value),
        Some(Kind::StructValue(object)) => json_object(object),
        Some(Kind::ListValue(list)) => list.values.iter().map(json_value).collect(),
    }
}

/// Labels or extensions from pairs.
pub fn pairs(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}
