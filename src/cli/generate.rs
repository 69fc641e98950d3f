//! `doorward gen`: configuration of other programs, printed to be used as it is.

use std::{net::SocketAddr, path::PathBuf};

use spiffe::TrustDomain;

use super::{Exit, complain, print};
use crate::{
    config::{self, Placement, Size, Span},
    wiring::generate::{self, Certificates, Plan, Upstream},
};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Print the Envoy configuration that makes doorward's promises true
    Envoy(Box<Args>),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  doorward gen envoy --upstream 127.0.0.1:8080                          in front of one workload
  doorward gen envoy --upstream api.internal:443 --placement egress     for the calls that a workload makes
  doorward gen envoy --upstream 127.0.0.1:8080 --xfcc                   where an intermediate issues SVIDs
  doorward gen envoy --upstream 127.0.0.1:8080 --streams /events        with streams that can be ended
  doorward gen envoy --filter-only                                      for an Envoy already in use

Exit codes: 0 done, 3 flags that do not fit together")]
pub(super) struct Args {
    /// Where Envoy listens; by default 0.0.0.0:8443, and 127.0.0.1:15001 for egress
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// What is behind Envoy, `host:port`
    #[arg(long, value_name = "HOST:PORT", required_unless_present = "filter_only")]
    upstream: Option<Upstream>,
    /// Speak mutual TLS to the upstream; egress always does
    #[arg(long)]
    upstream_tls: bool,
    /// Where this Envoy sits
    #[arg(long, value_enum, default_value_t = Placement::Inbound)]
    placement: Placement,
    /// doorward's socket, a path or `@name`
    #[arg(long, value_name = "PATH", default_value = "/run/doorward/envoy/authz.sock", value_parser = socket)]
    socket: String,
    /// How much of a body the policy may see; `max_body` of doorward's listener
    #[arg(long, value_name = "SIZE", default_value = "64KiB")]
    max_body: Size,
    /// How long Envoy waits for a decision; above doorward's `limits.decision`
    #[arg(long, value_name = "TIME", default_value = "250ms")]
    timeout: Span,
    /// Accept SPIFFE IDs of this trust domain only
    #[arg(long, value_name = "NAME")]
    trust_domain: Option<TrustDomain>,
    /// Envoy's certificate and its intermediates, PEM
    #[arg(long, value_name = "FILE", requires_all = ["key", "ca"], conflicts_with_all = ["sds_path", "sds_cluster"])]
    certificate: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    /// Roots that peers' certificates must chain to, PEM
    #[arg(long, value_name = "FILE", requires = "certificate")]
    ca: Option<PathBuf>,
    /// Folder with certificate.yaml and trust.yaml, watched (file SDS); by default /etc/envoy
    #[arg(long, value_name = "FOLDER", conflicts_with = "sds_cluster")]
    sds_path: Option<PathBuf>,
    /// Cluster that serves the secrets, SPIRE's agent
    #[arg(long, value_name = "NAME")]
    sds_cluster: Option<String>,
    /// Let calls without a certificate reach the policy, for public routes
    #[arg(long)]
    optional_certificate: bool,
    /// Send the certificates between leaf and root, for `peer: {xfcc: last_element}`
    #[arg(long)]
    xfcc: bool,
    /// Port of the admin interface on loopback
    #[arg(long, value_name = "PORT")]
    admin: Option<u16>,
    /// Port that says from outside whether Envoy is ready
    #[arg(long, value_name = "PORT", requires = "admin")]
    probe: Option<u16>,
    /// Prefix of paths that are streams: no body is held back, and doorward can end them while they live; may be repeated
    #[arg(long, value_name = "PREFIX", value_parser = prefix)]
    streams: Vec<String>,
    /// Most live streams; `limits.streams` of doorward
    #[arg(long, value_name = "NUMBER", default_value_t = config::Limits::default().streams, requires = "streams")]
    stream_limit: usize,
    /// Print the filter and the cluster only, to be pasted
    #[arg(long)]
    filter_only: bool,
}

pub(super) fn run(command: &Command) -> Exit {
    let Command::Envoy(args) = command;
    let egress = args.placement == Placement::Egress;
    if egress && (args.xfcc || args.optional_certificate) {
        complain(
            "`--xfcc` and `--optional-certificate` are about clients' certificates, and at egress there are none; remove them",
        );
        return Exit::Invalid;
    }
    let listen = args.listen.unwrap_or(if egress {
        SocketAddr::from(([127, 0, 0, 1], 15001))
    } else {
        SocketAddr::from(([0, 0, 0, 0], 8443))
    });
    let plan = Plan {
        command: command_line(),
        placement: args.placement,
        listen,
        upstream: args.upstream.clone().unwrap_or(Upstream { host: "127.0.0.1".to_owned(), port: 8080 }),
        upstream_tls: args.upstream_tls || egress,
        socket: args.socket.clone(),
        max_body: args.max_body,
        timeout: args.timeout,
        certificates: certificates(args),
        trust_domain: args.trust_domain.clone(),
        certificate_optional: args.optional_certificate,
        xfcc: args.xfcc,
        admin: args.admin,
        probe: args.probe,
        streams: args.streams.clone(),
        stream_limit: args.stream_limit,
    };
    let text = if args.filter_only { generate::piece(&plan) } else { generate::whole(&plan) };
    print(text.trim_end())
}

fn certificates(args: &Args) -> Certificates {
    match (&args.certificate, &args.key, &args.ca, &args.sds_cluster) {
        (Some(certificate), Some(key), Some(ca), _) => {
            Certificates::Files { certificate: certificate.clone(), key: key.clone(), ca: ca.clone() }
        }
        (.., Some(cluster)) => Certificates::Cluster(cluster.clone()),
        _ => Certificates::Folder(args.sds_path.clone().unwrap_or_else(|| "/etc/envoy".into())),
    }
}

/// How this was called, for the head of the file; none of the flags holds a secret.
fn command_line() -> String {
    let words = std::env::args().skip(1).map(|word| {
        let plain = !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-:@=[]".contains(c));
        if plain { word } else { format!("'{}'", word.replace('\'', r"'\''").replace(char::is_control, " ")) }
    });
    std::iter::once("doorward".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

fn socket(text: &str) -> Result<String, String> {
    match text.strip_prefix('@').map_or_else(|| text.starts_with('/'), |name| !name.is_empty()) {
        true if !text.contains(char::is_control) => Ok(text.to_owned()),
        _ => Err("write an absolute path, or `@name` for an abstract socket".to_owned()),
    }
}

fn prefix(text: &str) -> Result<String, String> {
    match text.starts_with('/') && !text.contains(char::is_control) {
        true => Ok(text.to_owned()),
        false => Err("a prefix begins with `/`".to_owned()),
    }
}
