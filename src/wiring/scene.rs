//! What a configuration holds, wherever it keeps it: listeners, clusters, named route configurations, secrets and filters
//! that are delivered apart, of a bootstrap or of a config dump.

use super::{document::Document, field::Typed};
use crate::config::Node;

#[derive(Debug, Default)]
pub(super) struct Scene<'a> {
    pub bootstrap: Option<&'a Node>,
    pub listeners: Vec<&'a Node>,
    pub clusters: Vec<&'a Node>,
    pub routes: Vec<&'a Node>,
    pub secrets: Vec<&'a Node>,
    pub extensions: Vec<&'a Node>,
    /// The HTTP filters of a piece to paste, which has no listener.
    pub piece: Option<&'a Node>,
    /// A dump shows what was delivered over the network; a file shows only that it will be.
    pub dump: bool,
}

impl<'a> Scene<'a> {
    pub(super) fn of(document: &'a Document) -> Self {
        let root = &document.root;
        if root.get("configs").is_some() {
            return Self::of_dump(root);
        }
        if let Some(filters) = root.get("http_filters") {
            return Self { piece: Some(filters), clusters: root.list("clusters").iter().collect(), ..Self::default() };
        }
        let mut scene = Self { bootstrap: Some(root), ..Self::default() };
        scene.add_static(root);
        scene
    }

    fn add_static(&mut self, bootstrap: &'a Node) {
        self.listeners.extend(bootstrap.list("static_resources.listeners"));
        self.clusters.extend(bootstrap.list("static_resources.clusters"));
        self.secrets.extend(bootstrap.list("static_resources.secrets"));
    }

    fn of_dump(root: &'a Node) -> Self {
        let mut scene = Self { dump: true, ..Self::default() };
        for config in root.list("configs").iter().filter_map(Node::as_typed) {
            scene.add_section(config);
        }
        // A dump that was asked for in part has no section of listeners of its own.
        if let Some(bootstrap) = scene.bootstrap.filter(|_| scene.listeners.is_empty()) {
            scene.add_static(bootstrap);
        }
        scene
    }

    fn add_section(&mut self, Typed { name, body }: Typed<'a>) {
        let all =
            |list: &str, inner: &'static str| body.list(list).iter().filter_map(move |item| item.at(inner)).collect::<Vec<_>>();
        match name.rsplit('.').next().unwrap_or_default() {
            "BootstrapConfigDump" => self.bootstrap = body.get("bootstrap"),
            "ListenersConfigDump" => {
                self.listeners.extend(all("static_listeners", "listener"));
                self.listeners.extend(all("dynamic_listeners", "active_state.listener"));
                self.listeners.extend(all("dynamic_listeners", "warming_state.listener"));
            }
            "ClustersConfigDump" => {
                for list in ["static_clusters", "dynamic_active_clusters", "dynamic_warming_clusters"] {
                    self.clusters.extend(all(list, "cluster"));
                }
            }
            "RoutesConfigDump" => {
                for list in ["static_route_configs", "dynamic_route_configs"] {
                    self.routes.extend(all(list, "route_config"));
                }
            }
            "SecretsConfigDump" => {
                for list in ["static_secrets", "dynamic_active_secrets", "dynamic_warming_secrets"] {
                    self.secrets.extend(all(list, "secret"));
                }
            }
            "EcdsConfigDump" => self.extensions.extend(all("ecds_filters", "ecds_filter")),
            _ => {}
        }
    }

    pub(super) fn cluster(&self, name: &str) -> Option<&'a Node> {
        named(&self.clusters, name)
    }

    pub(super) fn secret(&self, name: &str) -> Option<&'a Node> {
        named(&self.secrets, name)
    }

    /// The configuration of an HTTP filter: its own, or the one that was delivered under its name.
    pub(super) fn filter_config(&self, filter: &'a Node) -> Option<Typed<'a>> {
        filter.typed("typed_config").or_else(|| named(&self.extensions, filter.text_at("name"))?.typed("typed_config")).or_else(
            || {
                let default = filter.at("config_discovery.default_config")?;
                default.as_typed()
            },
        )
    }

    /// The addresses that a cluster leads to.
    pub(super) fn endpoints(&self, cluster: &'a Node) -> impl Iterator<Item = &'a Node> {
        let localities = cluster.list("load_assignment.endpoints").iter();
        localities.flat_map(|locality| locality.list("lb_endpoints")).filter_map(|endpoint| endpoint.at("endpoint.address"))
    }
}

fn named<'a>(nodes: &[&'a Node], name: &str) -> Option<&'a Node> {
    nodes.iter().copied().find(|node| node.text_at("name") == name)
}
