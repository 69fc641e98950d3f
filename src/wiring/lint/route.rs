//! Routes: which of them switch the filter off, ask somebody else, or open a cut stream again.

use super::{Code, Report, cluster};
use crate::config::{Address, Node};

/// The route configurations of a manager: written in it, or delivered under a name.
pub(super) fn of<'a>(report: &mut Report<'a, '_>, manager: &'a Node) -> Vec<&'a Node> {
    if let Some(config) = manager.get("route_config") {
        return vec![config];
    }
    let delivered = |name: &str| report.scene.routes.iter().copied().find(|config| config.text_at("name") == name);
    let (found, unseen) = match (manager.get("rds"), manager.get("scoped_routes")) {
        (Some(rds), _) => (delivered(rds.text_at("route_config_name")).into_iter().collect(), Some(rds)),
        // Any of those delivered may be chosen.
        (None, Some(scoped)) => (report.scene.routes.clone(), Some(scoped)),
        (None, None) => (Vec::new(), None),
    };
    if let Some(unseen) = unseen.filter(|_| found.is_empty()) {
        report.add(Code::RoutesUnseen, unseen);
    }
    found
}

/// `filters` are the names under which the ext_authz filter is configured by route.
pub(super) fn lint<'a>(report: &mut Report<'a, '_>, config: &'a Node, filters: &[&str]) {
    lint_filter_config(report, config, filters);
    for host in config.list("virtual_hosts") {
        lint_filter_config(report, host, filters);
        lint_retry(report, host);
        for route in host.list("routes") {
            lint_filter_config(report, route, filters);
            if let Some(action) = route.get("route") {
                lint_retry(report, action);
                for weighted in action.list("weighted_clusters.clusters") {
                    lint_filter_config(report, weighted, filters);
                }
            }
        }
    }
}

fn lint_filter_config<'a>(report: &mut Report<'a, '_>, level: &'a Node, filters: &[&str]) {
    for (_, config) in level.entries("typed_per_filter_config").iter().filter(|(name, _)| filters.contains(&name.as_str())) {
        let Some(typed) = config.as_typed() else { continue };
        // A wrapper may switch the filter off as well as what it holds.
        let inner = if typed.name.ends_with("route.v3.FilterConfig") { typed.body.typed("config") } else { None };
        for body in [Some(typed.body), inner.map(|inner| inner.body)].into_iter().flatten() {
            if body.is_set("disabled") {
                report.add_field(Code::RouteDisabled, body, "disabled");
            }
            let settings = ["check_settings.grpc_service", "check_settings.http_service"];
            if let Some(service) = settings.iter().find_map(|path| body.at(path)) {
                report.add(Code::RouteService, service);
            }
        }
    }
}

fn lint_retry<'a>(report: &mut Report<'a, '_>, level: &'a Node) {
    if let Some(conditions) = level.at("retry_policy.retry_on").filter(|on| on.text().split(',').any(repeats)) {
        report.add(Code::RouteRetry, conditions);
    }
}

/// A retry condition that also holds when the connection ends after the request was sent.
pub(super) fn repeats(condition: &str) -> bool {
    ["reset", "5xx"].contains(&condition.trim())
}

/// Nothing is passed on but Envoy's own readiness: every route is an answer of Envoy itself, or leads exactly `/ready` to
/// the admin interface.
pub(super) fn only_readiness<'a>(report: &Report<'a, '_>, configs: &[&'a Node]) -> bool {
    let mut routes =
        configs.iter().flat_map(|config| config.list("virtual_hosts")).flat_map(|host| host.list("routes")).peekable();
    routes.peek().is_some()
        && routes.all(|route| {
            let own = route.get("direct_response").is_some() || route.get("redirect").is_some();
            own || (route.text_at("match.path") == "/ready" && leads_to_admin(report, route.text_at("route.cluster")))
        })
}

fn leads_to_admin(report: &Report<'_, '_>, cluster: &str) -> bool {
    let admin = report.scene.bootstrap.and_then(|bootstrap| bootstrap.at("admin.address")).and_then(cluster::address);
    let (Some(admin), Some(cluster)) = (admin, report.scene.cluster(cluster)) else { return false };
    let same = |endpoint: Option<Address>| match (&admin, endpoint) {
        // An admin interface on every address is reached over loopback too.
        (Address::Tcp(admin), Some(Address::Tcp(endpoint))) if admin.ip().is_unspecified() => admin.port() == endpoint.port(),
        (admin, endpoint) => endpoint.as_ref() == Some(admin),
    };
    let mut endpoints = report.scene.endpoints(cluster).map(cluster::address).peekable();
    endpoints.peek().is_some() && endpoints.all(same)
}
