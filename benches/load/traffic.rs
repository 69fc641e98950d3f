//! What is asked: calls as a shop's services make them, each with the answer it must get. They are encoded once, before
//! anything is measured.

use std::{collections::HashMap, net::Ipv4Addr};

use anyhow::Context;
use bytes::{BufMut, Bytes, BytesMut};
use envoy_types::pb::{
    envoy::{
        config::core::v3::{Address, Metadata, SocketAddress, address, socket_address::PortSpecifier},
        service::auth::v3::{
            AttributeContext, CheckRequest,
            attribute_context::{HttpRequest, Peer, Request},
        },
        service::ext_proc::v3::{HttpHeaders, ProcessingRequest, processing_request},
    },
    google::protobuf::{Struct, Timestamp, Value, value::Kind},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use prost::Message;

use crate::{
    mesh::{Mesh, Svid},
    token::Signer,
};

pub(crate) const TRUST_DOMAIN: &str = "bench.example";
/// May read and write orders under each of the policies.
pub(crate) const CALLER: &str = "spiffe://bench.example/ns/shop/sa/checkout";
/// A member of the trust domain that no policy knows.
pub(crate) const STRANGER: &str = "spiffe://bench.example/ns/shop/sa/stranger";
/// The workload that is called.
pub(crate) const CALLED: &str = "spiffe://bench.example/ns/shop/sa/orders";
pub(crate) const AUTHORITY: &str = "orders.shop.svc:8443";

const CALLS: usize = 64;
/// One call in so many must be denied.
const DENIED_EACH: usize = 8;

/// What Envoy leaves unescaped in `source.certificate`.
const ENVOY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'*').remove(b'-').remove(b'.').remove(b'_');

/// One call of a workload, as a request through Envoy and as the Check that Envoy would make of it.
pub(crate) struct Call {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    /// Without pseudo-headers.
    pub(crate) headers: Vec<(&'static str, String)>,
    /// What the policies say about it when `CALLER` makes it.
    pub(crate) allowed: bool,
    /// A length-prefixed gRPC message.
    pub(crate) check: Bytes,
    /// The call becomes a stream, which Envoy has held for a moment.
    pub(crate) is_stream: bool,
}

impl Call {
    /// The same on a route of streams.
    pub(crate) fn of_stream(self) -> Self {
        let extensions = HashMap::from([("doorward-stream".to_owned(), "1".to_owned())]);
        let attributes = AttributeContext { context_extensions: extensions, ..AttributeContext::default() };
        // What is written behind a message is read as part of it.
        let mut message = self.check.get(PREFIX..).unwrap_or_default().to_vec();
        message.extend(CheckRequest { attributes: Some(attributes) }.encode_to_vec());
        Self { check: frame(&message), is_stream: true, ..self }
    }
}

/// What Envoy says to have the stream of decision `id` held.
pub(crate) fn holding(id: &str) -> Bytes {
    let decision = Value { kind: Some(Kind::StringValue(id.to_owned())) };
    let fields = HashMap::from([("decision_id".to_owned(), decision)]);
    let filter_metadata = HashMap::from([("envoy.filters.http.ext_authz".to_owned(), Struct { fields })]);
    let request = ProcessingRequest {
        request: Some(processing_request::Request::RequestHeaders(HttpHeaders::default())),
        metadata_context: Some(Metadata { filter_metadata, ..Metadata::default() }),
        ..ProcessingRequest::default()
    };
    frame(&request.encode_to_vec())
}

/// Calls that all differ in path and request id. The denied ones ask for a forbidden path; half of them come from the
/// stranger, when they are asked as Checks.
/// `tokens` is how many they take turns with.
pub(crate) fn calls(mesh: &Mesh, caller: &Svid, signer: &Signer, tokens: usize) -> anyhow::Result<Vec<Call>> {
    let stranger = mesh.issue(STRANGER, None)?;
    let calls = (0..CALLS.max(tokens)).map(|number| {
        let allowed = !number.is_multiple_of(DENIED_EACH);
        let method = if number.is_multiple_of(3) { "POST" } else { "GET" };
        let path = if allowed {
            format!("/api/v1/orders/{}/lines/{number}?expand=price&locale=de-AT&page=1", 471_100 + number)
        } else {
            format!("/internal/orders/{}/dump?format=csv&limit=1000", 471_100 + number)
        };
        let (id, svid) = if number.is_multiple_of(2 * DENIED_EACH) { (STRANGER, &stranger) } else { (CALLER, caller) };
        let mut headers = headers(number);
        if tokens > 0 && id == CALLER {
            headers.push(("authorization", format!("Bearer {}", signer.token(CALLER, number % tokens)?)));
        }
        let check = frame(&check(number, method, &path, &headers, id, svid).encode_to_vec());
        Ok(Call { method, path, headers, allowed, check, is_stream: false })
    });
    calls.collect()
}

/// The same call by any of many workloads, as a Check whose caller is written over the place where it stands.
pub(crate) struct Crowd {
    call: Call,
    /// Where the number of the caller begins.
    at: usize,
}

/// Before the number of one of the crowd.
pub(crate) const CROWD: &str = "spiffe://bench.example/ns/load/sa/caller-";
const DIGITS: usize = 8;

impl Crowd {
    pub(crate) fn new(svid: &Svid) -> anyhow::Result<Self> {
        let (method, path, headers) = ("GET", "/api/v1/orders/471100/lines/7?expand=price".to_owned(), headers(0));
        let id = format!("{CROWD}{}", "0".repeat(DIGITS));
        let check = frame(&check(0, method, &path, &headers, &id, svid).encode_to_vec());
        let at = check.windows(id.len()).position(|part| part == id.as_bytes()).context("the caller is not in the Check")?;
        Ok(Self { call: Call { method, path, headers, allowed: true, check, is_stream: false }, at: at + CROWD.len() })
    }

    /// The call of caller `number`.
    pub(crate) fn call(&self, number: usize) -> Call {
        let Call { method, path, headers, allowed, check, is_stream } = &self.call;
        let mut bytes = BytesMut::from(&**check);
        for (place, digit) in bytes.iter_mut().skip(self.at).zip(format!("{number:0DIGITS$}").bytes()) {
            *place = digit;
        }
        Call {
            method,
            path: path.clone(),
            headers: headers.clone(),
            allowed: *allowed,
            check: bytes.freeze(),
            is_stream: *is_stream,
        }
    }
}

fn headers(number: usize) -> Vec<(&'static str, String)> {
    let trace = format!("{:032x}", 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128 + number as u128);
    [
        ("accept", "application/json"),
        ("accept-encoding", "gzip, br"),
        ("accept-language", "de-AT,de;q=0.9,en;q=0.5"),
        ("cache-control", "no-cache"),
        ("content-type", "application/json"),
        ("user-agent", "checkout/4.18.2 (linux; amd64) reqwest/0.12"),
        ("x-api-version", "2026-10-01"),
        ("x-forwarded-for", "10.32.4.17"),
        ("x-tenant", "tenant-0042"),
    ]
    .into_iter()
    .map(|(name, value)| (name, value.to_owned()))
    .chain([
        ("traceparent", format!("00-{trace}-b7ad6b7169203331-00")),
        ("x-request-id", format!("5d1c8f3e-9c1a-4c57-8a55-{number:012x}")),
    ])
    .collect()
}

fn check(
    number: usize,
    method: &str,
    path: &str,
    headers: &[(&'static str, String)],
    spiffe_id: &str,
    svid: &Svid,
) -> CheckRequest {
    let pseudo = [(":authority", AUTHORITY), (":method", method), (":path", path), (":scheme", "https")];
    let headers: HashMap<String, String> = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .chain(pseudo.map(|(name, value)| (name.to_owned(), value.to_owned())))
        .collect();
    let http = HttpRequest {
        id: (7_734_105_839_201_447_u64 + number as u64).to_string(),
        method: method.to_owned(),
        headers,
        path: path.to_owned(),
        host: AUTHORITY.to_owned(),
        scheme: "https".to_owned(),
        protocol: "HTTP/2".to_owned(),
        ..HttpRequest::default()
    };
    let source = Peer {
        address: Some(address(Ipv4Addr::new(10, 32, 4, 17), 41_822)),
        principal: spiffe_id.to_owned(),
        certificate: utf8_percent_encode(&svid.certificate.pem(), ENVOY).to_string(),
        ..Peer::default()
    };
    let destination =
        Peer { address: Some(address(Ipv4Addr::new(10, 32, 7, 3), 8443)), principal: CALLED.to_owned(), ..Peer::default() };
    let attributes = AttributeContext {
        source: Some(source),
        destination: Some(destination),
        request: Some(Request { time: Some(Timestamp { seconds: 1_795_331_733, nanos: 204_118_000 }), http: Some(http) }),
        context_extensions: HashMap::from([("route".to_owned(), "orders".to_owned())]),
        metadata_context: Some(metadata()),
        route_metadata_context: Some(Metadata::default()),
        ..AttributeContext::default()
    };
    CheckRequest { attributes: Some(attributes) }
}

fn address(ip: Ipv4Addr, port: u32) -> Address {
    let socket = SocketAddress {
        address: ip.to_string(),
        port_specifier: Some(PortSpecifier::PortValue(port)),
        ..SocketAddress::default()
    };
    Address { address: Some(address::Address::SocketAddress(socket)) }
}

fn metadata() -> Metadata {
    let text = |value: &str| Value { kind: Some(Kind::StringValue(value.to_owned())) };
    let fields = HashMap::from([("cluster".to_owned(), text("eu-west-1a")), ("revision".to_owned(), text("v42"))]);
    let filter_metadata = HashMap::from([("mesh.workload".to_owned(), Struct { fields })]);
    Metadata { filter_metadata, ..Metadata::default() }
}

/// Before a message: not compressed, and its length.
pub(crate) const PREFIX: usize = 5;

/// The gRPC framing.
fn frame(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(PREFIX + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}
