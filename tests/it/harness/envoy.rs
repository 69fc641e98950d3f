//! A real Envoy in front of an upstream, with doorward as its authorizer.

use std::{
    fmt::Display,
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    ca::Leaf,
    client::{Client, Http},
    doorward::{DOMAIN, Doorward},
    eventually, peer,
};

/// What a test wants of Envoy; the default is HTTP with the certificate sent along.
#[derive(Default)]
pub struct Options<'a> {
    /// Lines of the ext_authz filter, indented by 14.
    pub filter: &'a str,
    /// Routes before the one for everything, each `- match: …` line and below indented by 14.
    pub routes: &'a str,
    /// Where `/grpc.health.v1.Health/` goes.
    pub grpc: Option<SocketAddr>,
    /// Lines at the top of the HTTP connection manager, indented by 10.
    pub manager: &'a str,
    /// More clusters, indented by 2.
    pub clusters: &'a str,
    /// Certificate and roots come from files by SDS, for `rotate` to replace, and Envoy itself refuses what is not of these
    /// roots.
    pub sds: bool,
}

/// A running Envoy.
pub struct Envoy {
    child: Child,
    folder: TempDir,
    pub http: SocketAddr,
    /// The listener with the network filter.
    pub tcp: SocketAddr,
    pub admin: SocketAddr,
}

impl Envoy {
    /// None, with a loud word, when Envoy is not installed.
    pub fn start(doorward: &Doorward, upstream: SocketAddr, echo: SocketAddr, options: &Options<'_>) -> Option<Self> {
        let binary = peer("Envoy", "envoy/_bin/envoy")?;
        let folder = TempDir::new().unwrap();
        let server = doorward.ca.leaf(|params| {
            params.subject_alt_names = vec![
                super::ca::uri(&format!("spiffe://{DOMAIN}/envoy")),
                rcgen::SanType::DnsName("localhost".try_into().unwrap()),
            ];
        });
        server.write(folder.path(), "server");
        offer_certificate(folder.path(), &server);
        offer_roots(folder.path(), &doorward.ca.pem);
        let config = folder.path().join("envoy.yaml");
        fs::write(&config, yaml(folder.path(), doorward, upstream, echo, options)).unwrap();
        Some(Self::run(&binary, folder, ["http", "tcp"], doorward.operations))
    }

    /// Envoy as `doorward gen envoy` prints it, with `flags` beside those of address, upstream, socket and certificates.
    pub fn printed(doorward: &Doorward, upstream: SocketAddr, flags: &[&str]) -> Option<Self> {
        let binary = peer("Envoy", "envoy/_bin/envoy")?;
        let folder = TempDir::new().unwrap();
        let server = doorward.ca.leaf(|params| {
            params.subject_alt_names = vec![rcgen::SanType::DnsName("localhost".try_into().unwrap())];
        });
        let (certificate, key) = server.write(folder.path(), "server");
        let printed = Command::new(env!("CARGO_BIN_EXE_doorward"))
            .args(["gen", "envoy", "--listen", "127.0.0.1:0", "--admin", "0", "--upstream", &upstream.to_string()])
            .arg("--socket")
            .arg(doorward.socket())
            .args(["--certificate".as_ref(), certificate.as_os_str(), "--key".as_ref(), key.as_os_str()])
            .args(["--ca".as_ref(), doorward.path("bundle.pem").as_os_str()])
            .args(flags)
            .output()
            .unwrap();
        assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
        fs::write(folder.path().join("envoy.yaml"), printed.stdout).unwrap();
        Some(Self::run(&binary, folder, ["inbound", "inbound"], doorward.operations))
    }

    /// Starts the binary on `envoy.yaml` in `folder`; `names` are its listeners for HTTP and TCP, which may be one.
    fn run(binary: &Path, folder: TempDir, names: [&str; 2], unknown: SocketAddr) -> Self {
        let log = File::create(folder.path().join("envoy.log")).unwrap();
        let child = Command::new(binary)
            .args(["--use-dynamic-base-id", "--concurrency", "1", "-l", "warning", "-c"])
            .arg(folder.path().join("envoy.yaml"))
            .arg("--admin-address-path")
            .arg(folder.path().join("admin"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut envoy = Self { child, folder, http: unknown, tcp: unknown, admin: unknown };
        envoy.admin = eventually(&format!("Envoy's admin address, log:\n{}", envoy.log()), || {
            fs::read_to_string(envoy.path("admin")).ok()?.trim().parse().ok()
        });
        let listeners = eventually(&format!("Envoy's listeners, log:\n{}", envoy.log()), || {
            let listeners: Value = serde_json::from_str(&envoy.admin("GET", "/listeners?format=json")).ok()?;
            let found = listeners["listener_statuses"].as_array()?.clone();
            let all = names.iter().all(|name| found.iter().any(|listener| listener["name"] == *name));
            (all && envoy.admin("GET", "/ready").contains("LIVE")).then_some(found)
        });
        let port = |name: &str| {
            let listener = listeners.iter().find(|listener| listener["name"] == name).unwrap();
            let port = listener["local_address"]["socket_address"]["port_value"].as_u64().unwrap();
            SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap()))
        };
        (envoy.http, envoy.tcp) = (port(names[0]), port(names[1]));
        envoy
    }

    /// With `sds`: shows another certificate from now on.
    pub fn rotate_certificate(&self, server: &Leaf) {
        self.rotate(|folder| offer_certificate(folder, server));
    }

    /// With `sds`: takes clients of these roots from now on.
    pub fn rotate_roots(&self, roots: &str) {
        self.rotate(|folder| offer_roots(folder, roots));
    }

    fn rotate(&self, offer: impl FnOnce(&Path)) {
        let updates = || self.stat("ssl_context_update_by_sds");
        let before = updates();
        offer(self.folder.path());
        // Both listeners count for themselves.
        eventually("Envoy to take a secret", || (updates() >= before + 2).then_some(()));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("envoy.log")).unwrap_or_default()
    }

    /// The body of a request to the admin interface.
    pub fn admin(&self, method: &str, path: &str) -> String {
        use std::io::{Read as _, Write as _};
        let ask = || -> std::io::Result<String> {
            let mut stream = std::net::TcpStream::connect(self.admin)?;
            write!(stream, "{method} {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
        };
        let mut rest = ask().unwrap_or_default();
        let mut body = String::new();
        // The answer comes in chunks, each after a line with its size.
        while let Some((size, chunk)) = rest.split_once("\r\n")
            && let Ok(size @ 1..) = usize::from_str_radix(size, 16)
            && let Some((text, next)) = chunk.split_at_checked(size)
        {
            body.push_str(text);
            rest = next.strip_prefix("\r\n").unwrap_or(next).to_owned();
        }
        if body.is_empty() { rest } else { body }
    }

    /// The value of one of Envoy's counters.
    pub fn stat(&self, name: &str) -> u64 {
        let stats = self.admin("GET", &format!("/stats?filter={name}"));
        stats.lines().filter_map(|line| line.split_once(": ")?.1.trim().parse::<u64>().ok()).sum()
    }

    /// A client that shows `leaf` and speaks `http`.
    pub fn client(&self, doorward: &Doorward, leaf: Option<&Leaf>, http: Http) -> Client {
        Client::new(self.http, &doorward.ca, leaf, http)
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- Envoy's log\n{}", self.log());
        }
    }
}

fn yaml(folder: &Path, doorward: &Doorward, upstream: SocketAddr, echo: SocketAddr, options: &Options<'_>) -> String {
    let Options { filter, routes, grpc, manager, clusters, sds } = options;
    let folder = folder.display();
    let bundle = doorward.path("bundle.pem");
    let bundle = bundle.display();
    let socket = doorward.socket();
    let socket = socket.display();
    let grpc = grpc.unwrap_or(upstream);
    let tls = downstream_tls(&folder, &bundle, *sds);
    format!(
        "node: {{id: test, cluster: test}}
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}
static_resources:
  listeners:
  - name: http
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
{tls}      filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: test
          upgrade_configs: [{{upgrade_type: websocket}}]
{manager}          route_config:
            virtual_hosts:
            - name: all
              domains: [\"*\"]
              routes:
{routes}              - match: {{prefix: /grpc.health.v1.Health/}}
                route: {{cluster: grpc}}
              - match: {{prefix: /}}
                route: {{cluster: upstream, timeout: 0s}}
          http_filters:
          - name: envoy.filters.http.ext_authz
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
              transport_api_version: V3
              grpc_service: {{envoy_grpc: {{cluster_name: doorward}}, timeout: 2s}}
              include_peer_certificate: true
              include_tls_session: true
              status_on_error: {{code: ServiceUnavailable}}
{filter}          - name: envoy.filters.http.router
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  - name: tcp
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
{tls}      filters:
      - name: envoy.filters.network.ext_authz
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.ext_authz.v3.ExtAuthz
          stat_prefix: tcp
          transport_api_version: V3
          grpc_service: {{envoy_grpc: {{cluster_name: doorward}}, timeout: 2s}}
          include_peer_certificate: true
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: echo
          cluster: echo
  clusters:
{}{}{}  - name: doorward
    type: STATIC
    connect_timeout: 1s
{HTTP2}    load_assignment:
      cluster_name: doorward
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{pipe: {{path: {socket}}}}}}}
{clusters}",
        cluster("upstream", upstream, ""),
        cluster("grpc", grpc, HTTP2),
        cluster("echo", echo, ""),
    )
}

fn downstream_tls(folder: &impl Display, bundle: &impl Display, sds: bool) -> String {
    let secrets = if sds {
        let secret = |name: &str| format!("{{name: {name}, sds_config: {{path_config_source: {{path: {folder}/{name}.json}}}}}}");
        format!(
            "            tls_certificate_sds_secret_configs: [{}]\n            validation_context_sds_secret_config: {}\n",
            secret("server"),
            secret("roots")
        )
    } else {
        format!(
            "            tls_certificates:
            - certificate_chain: {{filename: {folder}/server.pem}}
              private_key: {{filename: {folder}/server.key}}
            validation_context:
              trusted_ca: {{filename: {bundle}}}
              trust_chain_verification: ACCEPT_UNTRUSTED
"
        )
    };
    format!(
        "    - transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: false
          common_tls_context:
            alpn_protocols: [h2, http/1.1]
{secrets}"
    )
}

fn offer_certificate(folder: &Path, server: &Leaf) {
    let secret = json!({"certificate_chain": inline(&server.certificate), "private_key": inline(&server.key)});
    offer(folder, "server", "tls_certificate", &secret);
}

fn offer_roots(folder: &Path, roots: &str) {
    offer(folder, "roots", "validation_context", &json!({"trusted_ca": inline(roots)}));
}

fn inline(text: &str) -> Value {
    json!({"inline_string": text})
}

/// Writes a secret for SDS, in one step.
fn offer(folder: &Path, name: &str, kind: &str, secret: &Value) {
    let kind_of = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
    let (new, file) = (folder.join("secret.new"), folder.join(format!("{name}.json")));
    fs::write(&new, json!({"resources": [{"@type": kind_of, "name": name, kind: secret}]}).to_string()).unwrap();
    fs::rename(&new, &file).unwrap();
}

pub const HTTP2: &str = "    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
";

/// A cluster of one address; `options` are lines of its own.
pub fn cluster(name: &str, to: SocketAddr, options: &str) -> String {
    let (host, port) = (to.ip(), to.port());
    format!(
        "  - name: {name}
    type: STATIC
    connect_timeout: 1s
{options}    load_assignment:
      cluster_name: {name}
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: {host}, port_value: {port}}}}}}}
"
    )
}
