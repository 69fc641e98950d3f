//! The cluster that the filter asks: does it lead to our doorward, can nobody else answer, does gRPC work, and does Envoy
//! leave the refusing to doorward.

use std::net::{IpAddr, SocketAddr};

use super::{Code, Report};
use crate::config::{Address, Node};

/// Envoy's own limit where no circuit breaker is set, of requests and of those that wait.
const DEFAULT_LIMIT: u64 = 1024;

/// Where a filter with a gRPC service names its cluster.
pub(super) const NAME: &str = "grpc_service.envoy_grpc.cluster_name";

/// The cluster that the filter with this configuration asks, if it is in the file.
pub(super) fn asked<'a>(report: &Report<'a, '_>, filter: &'a Node) -> Option<&'a Node> {
    report.scene.cluster(filter.text_at(NAME))
}

/// Where an address of Envoy leads, as our configuration would write it.
pub(super) fn address(address: &Node) -> Option<Address> {
    if let Some(path) = address.at("pipe.path") {
        return Some(match path.text().strip_prefix('@') {
            Some(name) => Address::Abstract(name.to_owned()),
            None => Address::Unix(path.text().into()),
        });
    }
    let port = u16::try_from(address.number_at("socket_address.port_value")?).ok()?;
    let ip: IpAddr = address.text_at("socket_address.address").parse().ok()?;
    Some(Address::Tcp(SocketAddr::new(ip, port)))
}

/// Only this machine reaches it.
pub(super) fn is_local(node: &Node) -> bool {
    let host = node.text_at("socket_address.address");
    node.get("pipe").is_some() || host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

pub(super) fn lint<'a>(report: &mut Report<'a, '_>, service: &'a Node) {
    let name = service.text_at("envoy_grpc.cluster_name");
    let Some(cluster) = report.scene.cluster(name) else {
        let elsewhere = report.scene.bootstrap.is_some_and(|bootstrap| bootstrap.at("dynamic_resources.cds_config").is_some());
        // A piece may be printed without the cluster that is there already.
        if service.get("envoy_grpc").is_some() && !elsewhere && report.scene.piece.is_none() {
            report.add_field(Code::ClusterMissing, service, "envoy_grpc.cluster_name");
        }
        return;
    };
    lint_endpoints(report, cluster);
    if !speaks_http2(cluster) {
        report.add(Code::ClusterNotHttp2, cluster);
    }
    let queue = report.config.map_or(DEFAULT_LIMIT, |config| config.limits.queue as u64);
    let (most, place) = most_requests(cluster);
    if most <= queue {
        report.add(Code::CircuitBreakersLow, place);
    }
}

/// How many requests Envoy has under way at most, and where that is written, or should be.
pub(super) fn most_requests(cluster: &Node) -> (u64, &Node) {
    // The default priority is the one that our requests have.
    let threshold = cluster.list("circuit_breakers.thresholds").iter().find(|limits| !limits.is_word("priority", "HIGH", 1));
    let limit = |field: &str| threshold.and_then(|limits| limits.number_at(field)).unwrap_or(DEFAULT_LIMIT);
    (limit("max_requests").min(limit("max_pending_requests")), threshold.unwrap_or(cluster))
}

fn lint_endpoints<'a>(report: &mut Report<'a, '_>, cluster: &'a Node) {
    let tls = cluster.get("transport_socket").and_then(|socket| socket.typed("typed_config"));
    let protected = tls.is_some_and(|tls| tls.name.ends_with(".UpstreamTlsContext"));
    for endpoint in report.scene.endpoints(cluster) {
        if let Some(config) = report.config
            && address(endpoint).is_some_and(|address| !config.listeners.iter().any(|listener| listener.address == address))
        {
            let known: Vec<_> = config.listeners.iter().map(|listener| format!("`{}`", listener.address)).collect();
            let reason = format!("{}, which listens at {}", Code::SocketDiffers.reason(), known.join(" and "));
            let corrected = config.listeners.first().map(|listener| written(&listener.address)).unwrap_or_default();
            report.add_saying(Code::SocketDiffers, endpoint, reason, corrected);
        }
        if endpoint.get("pipe").is_none() && !protected {
            report.add(if is_local(endpoint) { Code::ClusterOnLoopback } else { Code::ClusterUnprotected }, endpoint);
        }
    }
}

fn written(address: &Address) -> String {
    match address {
        Address::Unix(path) => format!("address: {{pipe: {{path: {}}}}}", path.display()),
        Address::Abstract(name) => format!("address: {{pipe: {{path: \"@{name}\"}}}}"),
        Address::Tcp(socket) => {
            format!("address: {{socket_address: {{address: {}, port_value: {}}}}}", socket.ip(), socket.port())
        }
    }
}

pub(super) fn speaks_http2(cluster: &Node) -> bool {
    let options = cluster.entries("typed_extension_protocol_options");
    let named = options.iter().find(|(name, _)| name.ends_with(".HttpProtocolOptions")).map(|(_, options)| options);
    let explicit = |options: &Node| {
        options.at("explicit_http_config.http2_protocol_options").is_some()
            || options.get("auto_config").is_some()
            || options.get("use_downstream_protocol_config").is_some()
    };
    named.is_some_and(explicit) || cluster.get("http2_protocol_options").is_some()
}
