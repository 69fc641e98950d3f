//! Envoy in front of the servers: a listener for each, the same but for whom ext_authz asks, and one that asks nobody.
//! Each answers by itself, so that no upstream is measured.

use std::{fs, net::SocketAddr, path::Path, process::Command};

use anyhow::Context;
use serde_json::{Value, json};

use crate::{
    mesh::Svid,
    server::{Server, free_address},
};

/// A listener of Envoy: its name, and the socket of the authorizer it asks.
pub(crate) struct Route<'a> {
    pub(crate) name: &'static str,
    pub(crate) authorizer: Option<&'a Path>,
}

/// Starts Envoy with one worker thread, and says where each route listens. It may not be ready yet.
pub(crate) fn start(
    binary: &Path,
    folder: &Path,
    svid: &Svid,
    bundle: &Path,
    routes: &[Route<'_>],
) -> anyhow::Result<(Server, Vec<SocketAddr>)> {
    let certificate = folder.join("envoy.pem");
    let key = folder.join("envoy.key");
    fs::write(&certificate, svid.certificate.pem()).context("write Envoy's certificate")?;
    fs::write(&key, svid.key.serialize_pem()).context("write Envoy's key")?;
    let tls = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": true,
        "common_tls_context": {
            "alpn_protocols": ["h2"],
            "tls_certificates": [{"certificate_chain": {"filename": certificate}, "private_key": {"filename": key}}],
            "validation_context": {"trusted_ca": {"filename": bundle}},
        },
    });
    let addresses = routes.iter().map(|_| free_address()).collect::<anyhow::Result<Vec<_>>>()?;
    let listeners: Vec<Value> = routes.iter().zip(&addresses).map(|(route, address)| listener(route, *address, &tls)).collect();
    let clusters: Vec<Value> =
        routes.iter().filter_map(|route| route.authorizer.map(|socket| cluster(route.name, socket))).collect();
    let config = json!({"static_resources": {"listeners": listeners, "clusters": clusters}});
    let path = folder.join("envoy.json");
    fs::write(&path, config.to_string()).context("write Envoy's configuration")?;
    let mut command = Command::new(binary);
    command.arg("-c").arg(&path).args(["--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warning"]);
    let server = Server::start(&mut command, &folder.join("envoy.log"))?;
    Ok((server, addresses))
}

fn listener(route: &Route<'_>, address: SocketAddr, tls: &Value) -> Value {
    let authorize = route.authorizer.map(|_| {
        json!({
            "name": "envoy.filters.http.ext_authz",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
                "transport_api_version": "V3",
                "include_peer_certificate": true,
                "grpc_service": {"envoy_grpc": {"cluster_name": route.name}, "timeout": "1s"},
            },
        })
    });
    let answer = json!({
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
    });
    let filters: Vec<Value> = authorize.into_iter().chain([answer]).collect();
    let http = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": route.name,
        "http_filters": filters,
        "route_config": {"virtual_hosts": [{
            "name": "all",
            "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "ok\n"}}}],
        }]},
    });
    json!({
        "name": route.name,
        "address": {"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}},
        "filter_chains": [{
            "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
            "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": http}],
        }],
    })
}

fn cluster(name: &str, socket: &Path) -> Value {
    json!({
        "name": name,
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": {"pipe": {"path": socket}}}},
        ]}]},
    })
}
