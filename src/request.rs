//! What a door asks about, after decoding: plain types with no Envoy in them. `envoy/decode` fills them, `policy/input`
//! shows them to policy, `identity` reads the source's certificate and principal.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::verdict::Protocol;

/// One call to decide.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Request {
    pub source: Option<Endpoint>,
    pub destination: Option<Endpoint>,
    /// When Envoy saw the first byte of the request.
    pub time: Option<Timestamp>,
    /// Absent for a TCP check.
    pub http: Option<Http>,
    /// True when the check carried a `request` message, even an empty one, so that policy sees it as it came.
    pub has_request: bool,
    /// Set by Envoy's route configuration, never by the client.
    pub context_extensions: BTreeMap<String, String>,
    pub metadata: Option<Metadata>,
    pub route_metadata: Option<Metadata>,
    /// Server name of the downstream TLS session; `Some("")` when Envoy sent the message without a name.
    pub sni: Option<String>,
}

impl Request {
    /// What stands for a message that could not be read: an HTTP request with nothing in it.
    pub fn unread() -> Self {
        Self { http: Some(Http::default()), ..Self::default() }
    }

    pub fn protocol(&self) -> Protocol {
        match &self.http {
            None => Protocol::Tcp,
            Some(http) if http.is_grpc() => Protocol::Grpc,
            Some(_) => Protocol::Http,
        }
    }
}

/// `AttributeContext.Peer`: one end of the connection, as Envoy describes it. Nothing here is proved.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Endpoint {
    pub address: Option<Address>,
    pub service: String,
    pub labels: BTreeMap<String, String>,
    /// First URI SAN, else first DNS SAN, else subject of the certificate: proves nothing (facts: Envoy fills it also
    /// for certificates that it did not verify).
    pub principal: String,
    /// URL-encoded PEM of the leaf that the TLS peer proved possession of; empty without `include_peer_certificate`.
    pub certificate: String,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Address {
    /// `protocol` is Envoy's enum number (0 TCP, 1 UDP).
    Socket {
        address: String,
        port: Option<u32>,
        named_port: String,
        protocol: i32,
        resolver: String,
        ipv4_compat: bool,
    },
    Pipe {
        path: String,
        mode: u32,
    },
    Internal {
        listener: String,
        endpoint_id: String,
    },
    /// The `address` message was there and empty.
    Unset,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timestamp {
    pub seconds: i64,
    pub nanos: i32,
}

/// Dynamic or route metadata: `filter_metadata` as plain JSON, `typed_filter_metadata` as `{typeUrl, value: base64}`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata {
    pub filter: Map<String, Value>,
    pub typed: Map<String, Value>,
}

/// `AttributeContext.HttpRequest` with what was parsed from it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Http {
    /// Envoy's stream id, not `x-request-id`.
    pub id: String,
    pub method: String,
    pub headers: Headers,
    /// `:path` with its query, as Envoy sent it.
    pub path: String,
    pub host: String,
    pub scheme: String,
    pub query: String,
    pub fragment: String,
    pub size: i64,
    pub protocol: String,
    /// The body as text (`pack_as_bytes: false`); empty when `raw_body` is used.
    pub body: String,
    pub raw_body: Vec<u8>,
    /// `input.parsed_path`, as opa-envoy-plugin gives it.
    pub parsed_path: Vec<String>,
    /// `input.parsed_query`: values in their order, keys sorted.
    pub parsed_query: BTreeMap<String, Vec<String>>,
    pub parsed_body: Body,
    pub url: UrlView,
}

impl Http {
    /// True for `application/grpc` and its subtypes (`+proto`, `+json`) and gRPC-Web.
    pub fn is_grpc(&self) -> bool {
        self.headers.get("content-type").is_some_and(|kind| kind.starts_with("application/grpc"))
    }
}

/// `input.parsed_body` and `input.truncated_body`.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Body {
    /// Nothing to parse, or no parser for the content type: `null`, not truncated.
    #[default]
    None,
    Parsed(Value),
    /// Cut short: `null`, truncated.
    Truncated,
    /// Not looked at, by setting: both are absent.
    Skipped,
}

/// Request headers, names in lower case, pseudo-headers included. Envoy sends either a map (duplicates joined with
/// `,`) or a list with raw bytes (`encode_raw_headers`); both give the same view here.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Headers {
    /// One entry a name, sorted by name; duplicates joined with `,`; bytes that are no UTF-8 replaced by U+FFFD.
    joined: Vec<(String, String)>,
    /// The list as it came, when it came as a list.
    raw: Option<Vec<(String, Vec<u8>)>>,
}

impl Headers {
    /// From `headers`: already joined by Envoy.
    pub fn from_map(map: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut joined: Vec<(String, String)> = map.into_iter().collect();
        joined.sort_unstable();
        Self { joined, raw: None }
    }

    /// From `header_map` (`encode_raw_headers: true`).
    pub fn from_list(list: Vec<(String, Vec<u8>)>) -> Self {
        let mut joined: BTreeMap<String, String> = BTreeMap::new();
        for (name, value) in &list {
            let text = String::from_utf8_lossy(value);
            joined
                .entry(name.to_ascii_lowercase())
                .and_modify(|all| {
                    all.push(',');
                    all.push_str(&text);
                })
                .or_insert_with(|| text.into_owned());
        }
        Self { joined: joined.into_iter().collect(), raw: Some(list) }
    }

    /// The joined value of a header; `name` in lower case.
    pub fn get(&self, name: &str) -> Option<&str> {
        let at = self.joined.binary_search_by(|(key, _)| key.as_str().cmp(name)).ok()?;
        self.joined.get(at).map(|(_, value)| value.as_str())
    }

    /// Every name with its joined value, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.joined.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The list as it came, when Envoy sent raw headers.
    pub fn raw(&self) -> Option<&[(String, Vec<u8>)]> {
        self.raw.as_deref()
    }
}

/// `input.url`: the path read strictly, beside the plugin's loose `parsed_path`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UrlView {
    /// Canonical path: dot segments resolved, empty segments dropped, percent-encoding decoded except for `/`, `\` and
    /// `%`, which stay encoded. Starts with `/`.
    pub path: String,
    pub segments: Vec<String>,
    /// Every way in which the path could be read differently by someone else, in the order of [`Ambiguity`].
    pub reasons: Vec<Ambiguity>,
}

impl UrlView {
    /// True when a reason is there that is denied by default.
    pub fn is_dangerous(&self) -> bool {
        self.reasons.iter().any(|reason| reason.is_dangerous())
    }
}

/// A way in which a path is ambiguous; the first six are denied by default, the others only shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ambiguity {
    EncodedSlash,
    EncodedBackslash,
    Backslash,
    DotSegment,
    DoubleEncoding,
    ControlByte,
    EmptySegment,
    Parameter,
    Fragment,
    NotUtf8,
    NoLeadingSlash,
    AbsoluteForm,
}

impl Ambiguity {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EncodedSlash => "encoded_slash",
            Self::EncodedBackslash => "encoded_backslash",
            Self::Backslash => "backslash",
            Self::DotSegment => "dot_segment",
            Self::DoubleEncoding => "double_encoding",
            Self::ControlByte => "control_byte",
            Self::EmptySegment => "empty_segment",
            Self::Parameter => "parameter",
            Self::Fragment => "fragment",
            Self::NotUtf8 => "not_utf8",
            Self::NoLeadingSlash => "no_leading_slash",
            Self::AbsoluteForm => "absolute_form",
        }
    }

    pub const fn is_dangerous(self) -> bool {
        (self as u8) <= (Self::ControlByte as u8)
    }
}
