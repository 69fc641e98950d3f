//! From Envoy's CheckRequest to a [`Request`]: strings are moved, never copied, and nothing is judged. The parts that
//! parse stand beside it, each pure; identity reads the certificate, and what a parse error is answered with is told by
//! whoever asked.

mod body;
mod escape;
mod json;
pub(super) mod metadata;
mod path;
mod query;
mod url;

use std::sync::Arc;

use envoy_types::{
    ext_authz::v3::pb::CheckRequest,
    pb::envoy::{
        config::core::v3::{self as core, address, envoy_internal_address::AddressNameSpecifier, socket_address::PortSpecifier},
        service::auth::v3::{
            AttributeContext,
            attribute_context::{HttpRequest, Peer},
        },
    },
};
use prost_reflect::DescriptorPool;
use thiserror::Error;

use self::{body::BodyError, escape::BadEscape, query::QueryError};
use crate::{
    config::Compat,
    request::{Address, Body, Endpoint, Headers, Http, Request, Timestamp},
};

/// What a listener was told about its Envoy.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Envoy's `max_request_bytes`, in bytes.
    pub max_body: Option<usize>,
    /// Bodies are not taken apart.
    pub skip_body_parse: bool,
    pub compat: Option<Compat>,
    /// Of the messages of gRPC calls.
    pub descriptors: Option<Arc<DescriptorPool>>,
}

/// The request, with the text of the parse error when path, query or body cannot be parsed (answer 400,
/// opa-envoy-plugin's `request_parse_error`). What stood before the error is parsed, what follows is not.
#[derive(Debug, Default)]
pub struct Decoded {
    pub request: Request,
    pub parse_error: Option<String>,
}

/// Takes a CheckRequest apart. Never fails: an empty one is an empty request.
pub fn decode(check: CheckRequest, settings: &Settings) -> Decoded {
    let Some(attributes) = check.attributes else { return Decoded::default() };
    let AttributeContext {
        source,
        destination,
        request,
        context_extensions,
        metadata_context,
        route_metadata_context,
        tls_session,
    } = attributes;

    let has_request = request.is_some();
    let (time, http) = request.map_or((None, None), |request| (request.time, request.http));
    let mut http = http.map(take_http);
    let parsed = http.as_mut().map_or(Ok(()), |http| parse(http, settings));
    Decoded {
        request: Request {
            source: source.map(endpoint),
            destination: destination.map(endpoint),
            time: time.map(|time| Timestamp { seconds: time.seconds, nanos: time.nanos }),
            http,
            has_request,
            context_extensions: context_extensions.into_iter().collect(),
            metadata: metadata_context.map(metadata::metadata),
            route_metadata: route_metadata_context.map(metadata::metadata),
            sni: tls_session.map(|session| session.sni),
        },
        parse_error: parsed.err().map(|error| error.to_string()),
    }
}

#[derive(Debug, Error)]
enum ParseError {
    #[error("path: {0}")]
    Path(BadEscape),
    #[error("query: {0}")]
    Query(QueryError),
    #[error("body: {0}")]
    Body(BodyError),
}

/// Fills in what is parsed from the request, in the plugin's order.
fn parse(http: &mut Http, settings: &Settings) -> Result<(), ParseError> {
    // Cut by hand and not by a URL parser: to one, `//admin/x` is a host and a path (CVE-2026-26205).
    let (path, query) = http.path.split_once('?').unwrap_or((&http.path, ""));
    http.url = url::view(&http.method, path);
    http.parsed_path = path::parse(path).map_err(ParseError::Path)?;
    http.parsed_query = query::parse(query).map_err(ParseError::Query)?;
    if settings.skip_body_parse {
        http.parsed_body = Body::Skipped;
        return Ok(());
    }
    let limit = settings.max_body.filter(|_| settings.compat.is_none());
    let context = body::Context { limit, descriptors: settings.descriptors.as_deref(), path: &http.parsed_path };
    http.parsed_body = body::parse(&http.headers, &http.body, &http.raw_body, &context).map_err(ParseError::Body)?;
    Ok(())
}

fn take_http(http: HttpRequest) -> Http {
    let HttpRequest { id, method, headers, header_map, path, host, scheme, query, fragment, size, protocol, body, raw_body } =
        http;
    let headers = take_headers(headers.into_iter(), header_map);
    Http { id, method, headers, path, host, scheme, query, fragment, size, protocol, body, raw_body, ..Http::default() }
}

/// Envoy fills one of the two. If ever both come, the map is what the plugin would have read.
fn take_headers(map: impl ExactSizeIterator<Item = (String, String)>, list: Option<core::HeaderMap>) -> Headers {
    match list {
        Some(list) if map.len() == 0 => Headers::from_list(list.headers.into_iter().map(raw_header).collect()),
        _ => Headers::from_map(map),
    }
}

/// `value` is filled in only by an Envoy that does not encode raw headers.
fn raw_header(header: core::HeaderValue) -> (String, Vec<u8>) {
    let value = if header.raw_value.is_empty() { header.value.into_bytes() } else { header.raw_value };
    (header.key, value)
}

fn endpoint(peer: Peer) -> Endpoint {
    let Peer { address, service, labels, principal, certificate } = peer;
    let address = address.map(self::address);
    Endpoint { address, service, labels: labels.into_iter().collect(), principal, certificate }
}

fn address(address: core::Address) -> Address {
    match address.address {
        None => Address::Unset,
        Some(address::Address::SocketAddress(socket)) => {
            let (port, named_port) = match socket.port_specifier {
                Some(PortSpecifier::PortValue(port)) => (Some(port), String::new()),
                Some(PortSpecifier::NamedPort(name)) => (None, name),
                None => (None, String::new()),
            };
            Address::Socket {
                address: socket.address,
                port,
                named_port,
                protocol: socket.protocol,
                resolver: socket.resolver_name,
                ipv4_compat: socket.ipv4_compat,
            }
        }
        Some(address::Address::Pipe(pipe)) => Address::Pipe { path: pipe.path, mode: pipe.mode },
        Some(address::Address::EnvoyInternalAddress(internal)) => Address::Internal {
            listener: match internal.address_name_specifier {
                Some(AddressNameSpecifier::ServerListenerName(name)) => name,
                None => String::new(),
            },
            endpoint_id: internal.endpoint_id,
        },
    }
}

#[cfg(test)]
pub use self::body::descriptors_of_tests;

#[cfg(test)]
mod tests;
