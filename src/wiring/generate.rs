//! The Envoy configuration that makes doorward's promises true, printed with the reasons. The text is in the YAML files of
//! `generate/`; here it is put together from a plan. In them a line that is nothing but `$NAME` stands for a block, `$NAME`
//! elsewhere for one value; an empty block leaves no line.

use std::{fmt, net::SocketAddr, path::PathBuf};

use spiffe::TrustDomain;

use crate::config::{Placement, Size, Span};

/// Envoy's limit of streams is above doorward's by this share of it.
const STREAM_ROOM: usize = 4;

/// What is to be printed.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The command that prints it, for the head of the file.
    pub command: String,
    pub placement: Placement,
    pub listen: SocketAddr,
    pub upstream: Upstream,
    /// Speak mutual TLS to the upstream, with our own SVID.
    pub upstream_tls: bool,
    /// Path of doorward's socket, or `@name`.
    pub socket: String,
    pub max_body: Size,
    pub timeout: Span,
    pub certificates: Certificates,
    /// Only certificates with a SPIFFE ID of this trust domain are accepted.
    pub trust_domain: Option<TrustDomain>,
    /// A call without a certificate arrives, and policy decides about it.
    pub certificate_optional: bool,
    pub xfcc: bool,
    /// Port of the admin interface.
    pub admin: Option<u16>,
    /// Port that tells from outside whether Envoy is ready.
    pub probe: Option<u16>,
    /// Prefixes of paths whose bodies are streams, which doorward can end while they live.
    pub streams: Vec<String>,
    /// Most live streams that doorward holds.
    pub stream_limit: usize,
}

/// `host:port` of what is behind Envoy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    pub host: String,
    pub port: u16,
}

/// Where Envoy's own certificate and the roots of its peers come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Certificates {
    /// PEM files, read once.
    Files { certificate: PathBuf, key: PathBuf, ca: PathBuf },
    /// A folder with `certificate.yaml` and `trust.yaml`, watched.
    Folder(PathBuf),
    /// A cluster that serves secrets, as SPIRE's agent does.
    Cluster(String),
}

/// The whole configuration.
pub fn whole(plan: &Plan) -> String {
    let (title, picture) = described(plan);
    let admin = plan.admin.map(|port| fill(include_str!("generate/admin.yaml"), &[("PORT", port.to_string())]));
    fill(
        include_str!("generate/head.yaml"),
        &[
            ("TITLE", title.to_owned()),
            ("PICTURE", picture),
            ("COMMAND", plan.command.clone()),
            ("ID", name(plan).to_owned()),
            ("ADMIN", admin.unwrap_or_default()),
            ("LISTENERS", listeners(plan)),
            ("CLUSTERS", clusters(plan)),
            (
                "END",
                if plan.placement == Placement::Gateway {
                    include_str!("generate/overload.yaml").to_owned()
                } else {
                    String::new()
                },
            ),
        ],
    )
}

/// The filter and the cluster alone, for an Envoy already in use.
pub fn piece(plan: &Plan) -> String {
    format!(
        "# For an Envoy already in use, printed by\n#\n#   {}\n#\n# The filter goes before the router of each HTTP connection manager, the cluster into static_resources.clusters.\n\
         http_filters:\n{}clusters:\n{}",
        plan.command,
        filters(plan),
        clusters_of_doorward(plan)
    )
}

fn described(plan: &Plan) -> (&'static str, String) {
    let Plan { listen, upstream, socket, .. } = plan;
    let behind = if plan.upstream_tls { "mTLS" } else { "plain" };
    let (title, before) = match plan.placement {
        Placement::Inbound => ("Envoy 1.40 in front of one workload, with doorward deciding each call.", "client --mTLS-->"),
        Placement::Egress => {
            ("Envoy 1.40 beside one workload, with doorward deciding each call it makes.", "workload --plain-->")
        }
        Placement::Gateway => ("Envoy 1.40 at the edge, with doorward deciding each call.", "client --mTLS-->"),
    };
    let way = format!("{before} {listen} Envoy --{behind}--> {upstream}");
    let fork = way.find(" Envoy").unwrap_or_default() + 4;
    (title, format!("{way}\n#   {:fork$}\\--gRPC--> {socket} doorward", ""))
}

fn listeners(plan: &Plan) -> String {
    let outbound = plan.placement == Placement::Egress;
    let streams: String = plan
        .streams
        .iter()
        .map(|prefix| {
            fill(include_str!("generate/stream.yaml"), &[("PREFIX", scalar(prefix)), ("UPSTREAM", name(plan).to_owned())])
        })
        .collect();
    let listener = fill(
        include_str!("generate/listener.yaml"),
        &[
            ("PLACEMENT", plan.placement.as_str().to_owned()),
            ("HOST", scalar(&plan.listen.ip().to_string())),
            ("PORT", plan.listen.port().to_string()),
            ("DIRECTION", if outbound { "OUTBOUND" } else { "INBOUND" }.to_owned()),
            (
                "TLS",
                if outbound {
                    "# The workload itself calls, over loopback: evidence `self`, no certificate.".to_owned()
                } else {
                    downstream_tls(plan)
                },
            ),
            (
                "FORWARDED",
                if outbound {
                    "# Nobody outside learns the workload's own address.\nskip_xff_append: true".to_owned()
                } else {
                    String::new()
                },
            ),
            ("XFCC", xfcc(plan).to_owned()),
            ("STREAMS", streams),
            ("FILTER", filters(plan)),
            ("UPSTREAM", name(plan).to_owned()),
        ],
    );
    let probe = plan.probe.map(|port| fill(include_str!("generate/probe.yaml"), &[("PORT", port.to_string())]));
    listener + &probe.unwrap_or_default()
}

fn xfcc(plan: &Plan) -> &'static str {
    if plan.xfcc {
        "# What a client writes about its own certificate is removed; Envoy writes what it has seen. `chain` brings the\n\
         # certificates between leaf and root, which doorward reads with `peer: {xfcc: last_element}`.\n\
         forward_client_cert_details: SANITIZE_SET\n\
         set_current_client_cert_details: {cert: true, chain: true, uri: true}"
    } else {
        "# What a client writes about its own certificate is removed.\nforward_client_cert_details: SANITIZE"
    }
}

fn downstream_tls(plan: &Plan) -> String {
    let require = if plan.certificate_optional {
        "# Verify a client certificate if one is given. A call without one still arrives, and doorward decides it: the\n\
         # policy can open public routes, and a refusal is recorded. A certificate that does not chain to the roots ends\n\
         # in the handshake: with `trust_chain_verification: ACCEPT_UNTRUSTED` it would reach doorward, which checks the\n\
         # chain again and refuses it, but all else that reads the peer here (access log, XFCC, RBAC filters) would show\n\
         # an identity nobody has proved.\n\
         require_client_certificate: false"
    } else {
        "# Who shows no certificate, or one that does not chain to the roots, ends in the handshake and is never decided\n\
         # about. With public routes write `false`: such calls then reach the policy, without `input.peer`.\n\
         require_client_certificate: true"
    };
    let values = [("REQUIRE", require.to_owned()), ("CERTIFICATES", certificates(plan))];
    fill(include_str!("generate/downstream_tls.yaml"), &values)
}

fn certificates(plan: &Plan) -> String {
    let names = plan.trust_domain.as_ref().map(|domain| {
        format!("# Only SPIFFE IDs of this trust domain.\nmatch_typed_subject_alt_names:\n- {{san_type: URI, matcher: {{prefix: \"spiffe://{domain}/\"}}}}\n")
    });
    let (own, secret) = match &plan.certificates {
        Certificates::Files { certificate, key, ca } => {
            let [certificate, key, ca] = [certificate, key, ca].map(|path| scalar(&path.display().to_string()));
            return format!(
                "# Files are read once: with SVIDs that are renewed use `--sds-path`.\ntls_certificates:\n\
                 - certificate_chain: {{filename: {certificate}}}\n  private_key: {{filename: {key}}}\n\
                 validation_context:\n  trusted_ca: {{filename: {ca}}}\n{}",
                indented(&names.unwrap_or_default(), 2)
            );
        }
        Certificates::Folder(folder) => {
            let source = |name: &str, file: &str| {
                let path = scalar(&folder.join(file).display().to_string());
                format!("name: {name}\nsds_config:\n  path_config_source: {{path: {path}}}\n  resource_api_version: V3\n")
            };
            (source("svid", "certificate.yaml"), source("trust", "trust.yaml"))
        }
        Certificates::Cluster(cluster) => {
            let source = |name: &str| {
                format!(
                    "name: {name}\nsds_config:\n  resource_api_version: V3\n  api_config_source:\n    api_type: GRPC\n    transport_api_version: V3\n    \
                     grpc_services: [{{envoy_grpc: {{cluster_name: {}}}}}]\n",
                    scalar(cluster)
                )
            };
            let bundle = plan.trust_domain.as_ref().map_or("ROOTCA".to_owned(), |domain| format!("\"spiffe://{domain}\""));
            (source("default"), source(&bundle))
        }
    };
    let own = indented(&own, 2).replacen("  name", "- name", 1);
    let trust = match names {
        Some(names) => format!(
            "combined_validation_context:\n  default_validation_context:\n{}  validation_context_sds_secret_config:\n{}",
            indented(&names, 4),
            indented(&secret, 4)
        ),
        None => format!("validation_context_sds_secret_config:\n{}", indented(&secret, 2)),
    };
    format!(
        "# Secrets are delivered, so that a rotated SVID is in use without a restart.\ntls_certificate_sds_secret_configs:\n{own}{trust}"
    )
}

fn filters(plan: &Plan) -> String {
    let timeout = format!("{}s", plan.timeout.duration().as_secs_f64());
    let mut text = fill(
        include_str!("generate/filter.yaml"),
        &[("TIMEOUT", timeout.clone()), ("MAX_BODY", plan.max_body.to_string()), ("BODY", plan.max_body.bytes().to_string())],
    );
    if !plan.streams.is_empty() {
        text.push_str(&fill(include_str!("generate/ext_proc.yaml"), &[("TIMEOUT", timeout)]));
    }
    text
}

fn clusters_of_doorward(plan: &Plan) -> String {
    let mut text = fill(include_str!("generate/doorward.yaml"), &[("SOCKET", scalar(&plan.socket))]);
    if !plan.streams.is_empty() {
        let limit = plan.stream_limit;
        let values = [
            ("SOCKET", scalar(&plan.socket)),
            ("LIMIT", limit.to_string()),
            ("REQUESTS", limit.saturating_add((limit / STREAM_ROOM).max(1)).to_string()),
        ];
        text.push_str(&fill(include_str!("generate/streams_cluster.yaml"), &values));
    }
    text
}

fn clusters(plan: &Plan) -> String {
    let Upstream { host, port } = &plan.upstream;
    let is_name = host.parse::<std::net::IpAddr>().is_err();
    let sni = if is_name { format!("sni: {}", scalar(host)) } else { String::new() };
    let tls = fill(include_str!("generate/upstream_tls.yaml"), &[("SNI", sni), ("CERTIFICATES", certificates(plan))]);
    let mut text = fill(
        include_str!("generate/upstream.yaml"),
        &[
            ("UPSTREAM", name(plan).to_owned()),
            ("TYPE", if is_name { "STRICT_DNS" } else { "STATIC" }.to_owned()),
            ("TLS", if plan.upstream_tls { tls } else { String::new() }),
            ("HOST", scalar(host)),
            ("PORT", port.to_string()),
        ],
    );
    text.push('\n');
    text.push_str(&clusters_of_doorward(plan));
    if let (Some(_), Some(admin)) = (plan.probe, plan.admin) {
        text.push_str(&fill(include_str!("generate/admin_cluster.yaml"), &[("PORT", admin.to_string())]));
    }
    if let Certificates::Cluster(cluster) = &plan.certificates {
        text.push_str(&fill(include_str!("generate/sds_cluster.yaml"), &[("NAME", scalar(cluster))]));
    }
    text
}

/// What the upstream is called.
const fn name(plan: &Plan) -> &'static str {
    match plan.placement {
        Placement::Inbound => "workload",
        Placement::Egress => "upstream",
        Placement::Gateway => "workloads",
    }
}

/// `template` with its `$NAME`s replaced.
fn fill(template: &str, values: &[(&str, String)]) -> String {
    let mut text = String::new();
    for line in template.lines() {
        let bare = line.trim_start();
        let indent = line.len() - bare.len();
        let (item, bare) = bare.strip_prefix("- ").map_or((false, bare), |rest| (true, rest));
        let block = bare.strip_prefix('$').and_then(|name| values.iter().find(|(known, _)| *known == name));
        if let Some((_, block)) = block {
            let depth = if item { indent + 2 } else { indent };
            let block = indented(block.trim_end_matches('\n'), depth);
            text.push_str(&if item {
                block.replacen(&" ".repeat(depth), &format!("{}- ", " ".repeat(indent)), 1)
            } else {
                block
            });
            continue;
        }
        // Longer names first, so that none is taken for the beginning of another.
        let mut sorted: Vec<_> = values.iter().collect();
        sorted.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        let filled = sorted.iter().fold(line.to_owned(), |line, (name, value)| line.replace(&format!("${name}"), value));
        text.push_str(&filled);
        text.push('\n');
    }
    text
}

fn indented(text: &str, by: usize) -> String {
    text.lines().map(|line| if line.is_empty() { "\n".to_owned() } else { format!("{:by$}{line}\n", "") }).collect()
}

/// A value as YAML, quoted where it could be read as something else.
fn scalar(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
    if plain { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl std::str::FromStr for Upstream {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no upstream, write `127.0.0.1:8080` or `host.name:443`");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        let known = host.parse::<std::net::IpAddr>().is_ok()
            || (!host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c)));
        let port = port.parse().ok().filter(|port| *port > 0 && known).ok_or_else(wrong)?;
        Ok(Self { host: host.to_owned(), port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_and_values_are_put_in() {
        let text = fill(
            "a: $X\n- $B\n  $B\n  $E\n$XY\n",
            &[("X", "1".into()), ("B", "b: 1\nc: 2\n".into()), ("E", String::new()), ("XY", "z".into())],
        );
        assert_eq!(text, "a: 1\n- b: 1\n  c: 2\n  b: 1\n  c: 2\nz\n");
    }

    #[test]
    fn what_could_be_read_as_something_else_is_quoted() {
        assert_eq!(scalar("/run/a-b_c.sock"), "/run/a-b_c.sock");
        for text in ["@name", "", "a: b", "::1", "*x", "a # b", "-x"] {
            assert!(scalar(text).starts_with('"'), "{text}");
        }
    }

    #[test]
    fn an_upstream_is_a_host_and_a_port() {
        for text in ["127.0.0.1:80", "orders.shop.svc:443", "[::1]:8080"] {
            assert_eq!(text.parse::<Upstream>().map(|upstream| upstream.to_string()).as_deref(), Ok(text));
        }
        for text in ["", "host", "host:0", "host:x", ":80", "a b:1", "h:99999", "h\n:1"] {
            assert!(text.parse::<Upstream>().is_err(), "{text}");
        }
    }
}
