//! The ext_proc filter by which doorward holds live streams: can it end one, and do they leave the Checks their room? An
//! ext_proc that leads to somebody else is none of ours.

use super::{Code, Report, cluster};
use crate::config::Node;

const PROCESSOR: &str = "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor";
/// Where the answers of ext_authz leave the decision id.
const NAMESPACE: &str = "envoy.filters.http.ext_authz";
/// `limits.streams` where our configuration is not known.
const DEFAULT_STREAMS: u64 = 10_000;

/// Looks at the filters of one manager; `authorizers` are the ext_authz filters among them.
pub(super) fn lint<'a>(report: &mut Report<'a, '_>, filters: &'a [Node], authorizers: &[&'a Node]) {
    for filter in filters {
        let Some(typed) = report.scene.filter_config(filter).filter(|typed| typed.name == PROCESSOR) else { continue };
        lint_processor(report, typed.body, authorizers);
    }
}

fn lint_processor<'a>(report: &mut Report<'a, '_>, processor: &'a Node, authorizers: &[&'a Node]) {
    let Some(name) = processor.at(cluster::NAME) else { return };
    let shared = authorizers.iter().any(|authorizer| authorizer.text_at(cluster::NAME) == name.text());
    let cluster = report.scene.cluster(name.text());
    if !shared && !cluster.is_some_and(|cluster| is_ours(report, cluster, authorizers)) {
        return;
    }
    if shared {
        report.add(Code::StreamsShareCluster, name);
    } else if let Some(cluster) = cluster {
        if !cluster::speaks_http2(cluster) {
            report.add(Code::ClusterNotHttp2, cluster);
        }
        let streams = report.config.map_or(DEFAULT_STREAMS, |config| config.limits.streams as u64);
        let (most, place) = cluster::most_requests(cluster);
        if most <= streams {
            report.add(Code::StreamBreakersLow, place);
        }
    }
    if processor.is_set("failure_mode_allow") || processor.is_set("observability_mode") {
        report.add_field(Code::StreamsFailOpen, processor, "failure_mode_allow");
    }
    if !processor.is_word("processing_mode.response_trailer_mode", "SEND", 1) {
        report.add_field(Code::StreamsNotHeld, processor, "processing_mode");
    }
    let forwarded = processor.list("metadata_options.forwarding_namespaces.untyped");
    if !forwarded.iter().any(|namespace| namespace.text() == NAMESPACE) {
        report.add_field(Code::StreamsUnnamed, processor, "metadata_options");
    }
}

/// It leads where Checks go too, or where our configuration listens.
fn is_ours<'a>(report: &Report<'a, '_>, cluster: &'a Node, authorizers: &[&'a Node]) -> bool {
    let asked = authorizers.iter().filter_map(|authorizer| cluster::asked(report, authorizer));
    let known: Vec<_> = asked.flat_map(|cluster| report.scene.endpoints(cluster)).filter_map(cluster::address).collect();
    report.scene.endpoints(cluster).filter_map(cluster::address).any(|address| {
        let listens = |config: &crate::config::Config| config.listeners.iter().any(|listener| listener.address == address);
        known.contains(&address) || report.config.is_some_and(listens)
    })
}
