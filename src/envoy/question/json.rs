//! The JSON form of a CheckRequest. Names are those of proto3 JSON or of the proto file; 64-bit numbers are numbers or
//! texts, times RFC 3339 or `{seconds, nanos}`, as the input document shows them. What is not known is refused, so that
//! nothing that was written is silently left out.

use std::collections::HashMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::DateTime;
use envoy_types::{
    ext_authz::v3::pb::CheckRequest,
    pb::{
        envoy::{
            config::core::v3::{
                self as core, address, envoy_internal_address::AddressNameSpecifier, socket_address::PortSpecifier,
            },
            service::auth::v3::{AttributeContext, attribute_context as context},
        },
        google::protobuf::{Any, ListValue, Struct, Timestamp, Value as ProtoValue, value::Kind},
    },
};
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::{Map, Value};

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Check {
    attributes: Option<Attributes>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Attributes {
    source: Option<Peer>,
    destination: Option<Peer>,
    request: Option<Request>,
    #[serde(alias = "context_extensions")]
    context_extensions: HashMap<String, String>,
    #[serde(alias = "metadata_context")]
    metadata_context: Option<Metadata>,
    #[serde(alias = "route_metadata_context")]
    route_metadata_context: Option<Metadata>,
    #[serde(alias = "tls_session")]
    tls_session: Option<TlsSession>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Peer {
    address: Option<Address>,
    service: String,
    labels: HashMap<String, String>,
    principal: String,
    certificate: String,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Address {
    #[serde(alias = "socket_address")]
    socket_address: Option<SocketAddress>,
    pipe: Option<Pipe>,
    #[serde(alias = "envoy_internal_address")]
    envoy_internal_address: Option<InternalAddress>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct SocketAddress {
    #[serde(deserialize_with = "protocol")]
    protocol: i32,
    address: String,
    #[serde(alias = "port_value", deserialize_with = "port")]
    port_value: Option<u32>,
    #[serde(alias = "named_port")]
    named_port: Option<String>,
    #[serde(alias = "resolver_name")]
    resolver_name: String,
    #[serde(alias = "ipv4_compat")]
    ipv4_compat: bool,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Pipe {
    path: String,
    #[serde(deserialize_with = "integer")]
    mode: u32,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct InternalAddress {
    #[serde(alias = "server_listener_name")]
    server_listener_name: Option<String>,
    #[serde(alias = "endpoint_id")]
    endpoint_id: String,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Request {
    #[serde(deserialize_with = "time")]
    time: Option<Timestamp>,
    http: Option<Http>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Http {
    id: String,
    method: String,
    headers: HashMap<String, String>,
    #[serde(alias = "header_map")]
    header_map: Option<HeaderMap>,
    path: String,
    host: String,
    scheme: String,
    query: String,
    fragment: String,
    #[serde(deserialize_with = "integer")]
    size: i64,
    protocol: String,
    body: String,
    #[serde(alias = "raw_body", deserialize_with = "bytes")]
    raw_body: Vec<u8>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct HeaderMap {
    headers: Vec<Header>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Header {
    key: String,
    value: String,
    #[serde(alias = "raw_value", deserialize_with = "bytes")]
    raw_value: Vec<u8>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Metadata {
    #[serde(alias = "filter_metadata")]
    filter_metadata: HashMap<String, Map<String, Value>>,
    #[serde(alias = "typed_filter_metadata")]
    typed_filter_metadata: HashMap<String, Packed>,
}

/// An `Any`, packed as the input document shows it. To pack one that is spelt out would need its type.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Packed {
    #[serde(alias = "type_url")]
    type_url: String,
    #[serde(deserialize_with = "bytes")]
    value: Vec<u8>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct TlsSession {
    sni: String,
}

impl From<Check> for CheckRequest {
    fn from(check: Check) -> Self {
        Self { attributes: check.attributes.map(attributes) }
    }
}

fn attributes(attributes: Attributes) -> AttributeContext {
    AttributeContext {
        source: attributes.source.map(peer),
        destination: attributes.destination.map(peer),
        request: attributes.request.map(|request| context::Request { time: request.time, http: request.http.map(http) }),
        context_extensions: attributes.context_extensions,
        metadata_context: attributes.metadata_context.map(metadata),
        route_metadata_context: attributes.route_metadata_context.map(metadata),
        tls_session: attributes.tls_session.map(|session| context::TlsSession { sni: session.sni }),
    }
}

fn peer(peer: Peer) -> context::Peer {
    let Peer { address, service, labels, principal, certificate } = peer;
    context::Peer { address: address.map(self::address), service, labels, principal, certificate }
}

fn address(address: Address) -> core::Address {
    let Address { socket_address, pipe, envoy_internal_address } = address;
    let socket = socket_address.map(|socket| {
        let named = socket.named_port.map(PortSpecifier::NamedPort);
        address::Address::SocketAddress(core::SocketAddress {
            protocol: socket.protocol,
            address: socket.address,
            port_specifier: socket.port_value.map(PortSpecifier::PortValue).or(named),
            resolver_name: socket.resolver_name,
            ipv4_compat: socket.ipv4_compat,
            ..core::SocketAddress::default()
        })
    });
    let pipe = pipe.map(|pipe| address::Address::Pipe(core::Pipe { path: pipe.path, mode: pipe.mode }));
    let internal = envoy_internal_address.map(|internal| {
        address::Address::EnvoyInternalAddress(core::EnvoyInternalAddress {
            address_name_specifier: internal.server_listener_name.map(AddressNameSpecifier::ServerListenerName),
            endpoint_id: internal.endpoint_id,
        })
    });
    core::Address { address: socket.or(pipe).or(internal) }
}

fn http(http: Http) -> context::HttpRequest {
    let Http { id, method, headers, header_map, path, host, scheme, query, fragment, size, protocol, body, raw_body } = http;
    let header = |Header { key, value, raw_value }| core::HeaderValue { key, value, raw_value };
    let header_map = header_map.map(|map| core::HeaderMap { headers: map.headers.into_iter().map(header).collect() });
    // Envoy sends one of the two. The input document shows the list joined, besides the list itself.
    let headers = if header_map.as_ref().is_some_and(|map| !map.headers.is_empty()) { HashMap::new() } else { headers };
    context::HttpRequest { id, method, headers, header_map, path, host, scheme, query, fragment, size, protocol, body, raw_body }
}

fn metadata(metadata: Metadata) -> core::Metadata {
    let packed = |Packed { type_url, value }| Any { type_url, value };
    core::Metadata {
        filter_metadata: metadata.filter_metadata.into_iter().map(|(name, fields)| (name, object(fields))).collect(),
        typed_filter_metadata: metadata.typed_filter_metadata.into_iter().map(|(name, any)| (name, packed(any))).collect(),
    }
}

fn object(fields: Map<String, Value>) -> Struct {
    Struct { fields: fields.into_iter().map(|(name, field)| (name, value(field))).collect() }
}

/// Recursion is bounded by the parser, which refuses a document nested deeper than 128.
fn value(value: Value) -> ProtoValue {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(flag) => Kind::BoolValue(flag),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => Kind::StringValue(text),
        Value::Array(items) => Kind::ListValue(ListValue { values: items.into_iter().map(self::value).collect() }),
        Value::Object(fields) => Kind::StructValue(object(fields)),
    };
    ProtoValue { kind: Some(kind) }
}

/// A whole number, or the text of one.
fn integer<'de, D: Deserializer<'de>, N: TryFrom<i64>>(deserializer: D) -> Result<N, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let number = match &value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    let wrong = || D::Error::custom(format!("`{value}` is no whole number that fits here"));
    number.and_then(|number| N::try_from(number).ok()).ok_or_else(wrong)
}

fn port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    integer(deserializer).map(Some)
}

fn protocol<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::String(name) if name == "TCP" => Ok(0),
        Value::String(name) if name == "UDP" => Ok(1),
        value => integer(value).map_err(D::Error::custom),
    }
}

fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    STANDARD.decode(&text).map_err(|error| D::Error::custom(format!("is no base64: {error}")))
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    #[derive(Deserialize, Default)]
    #[serde(default, deny_unknown_fields)]
    struct Parts {
        #[serde(deserialize_with = "integer")]
        seconds: i64,
        #[serde(deserialize_with = "integer")]
        nanos: i32,
    }
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(None),
        Value::String(text) => {
            let time = DateTime::parse_from_rfc3339(&text).map_err(|error| D::Error::custom(format!("`{text}`: {error}")))?;
            let nanos = i32::try_from(time.timestamp_subsec_nanos()).unwrap_or(0);
            Ok(Some(Timestamp { seconds: time.timestamp(), nanos }))
        }
        parts => {
            let Parts { seconds, nanos } = Parts::deserialize(parts).map_err(D::Error::custom)?;
            Ok(Some(Timestamp { seconds, nanos }))
        }
    }
}
