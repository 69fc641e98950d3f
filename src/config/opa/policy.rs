//! The plugin's settings, bundles and the keys that verify them.

use std::{collections::BTreeMap, net::IpAddr};

use super::{
    Findings, Section, Yaml, quoted,
    service::{Service, Services},
};
use crate::config::{SigningAlgorithm, bundle::is_name};

/// Names under which opa-envoy-plugin is configured.
const PLUGINS: [&str; 2] = ["envoy_ext_authz_grpc", "envoy.ext_authz.grpc"];

/// What OPA calls its folder of persisted bundles.
const PERSISTENCE: &str = ".opa";

/// `mode`, `listeners` and the first lines of `policy`, and what belongs to `limits`.
pub(super) fn plugin(root: &mut Section, yaml: &mut Yaml, findings: &mut Findings) {
    let mut plugins = root.section("plugins");
    let found = plugins.as_mut().and_then(|plugins| PLUGINS.iter().find_map(|name| plugins.section(name)));
    if found.is_none() {
        findings.manual(
            "plugins.envoy_ext_authz_grpc",
            "the plugin is not configured here, so its defaults are translated",
            "check `listeners` and `policy.decision`",
        );
    }
    for name in plugins.iter().flat_map(|plugins| plugins.members.keys()) {
        let remedy = "look for what it did in deploy/coming-from-opa.md";
        findings.missing(&format!("plugins.{name}"), "there are no plugins", remedy);
    }
    let mut plugin =
        found.unwrap_or(Section { path: "plugins.envoy_ext_authz_grpc".to_owned(), members: serde_json::Map::new() });
    if plugin.flag("dry-run") == Some(true) {
        yaml.comment(
            0,
            "Everything is let through, failures too, which dry-run does not; records say what would have been decided.",
        );
        yaml.line(0, "mode: observe");
    }
    listener(&mut plugin, yaml, findings);
    if let Some(size) = plugin.count("grpc-max-recv-msg-size") {
        yaml.line(0, "limits:");
        yaml.line(2, &format!("message: {size}B"));
    }
    if plugin.flag("enable-performance-metrics").is_some() {
        findings.note(
            &plugin.at("enable-performance-metrics"),
            "metrics are always served, at `operations.address` under /metrics",
            "nothing to do",
        );
    }
    yaml.line(0, "policy:");
    yaml.comment(2, "The plugin's behaviour where Doorward's safe default differs; leave it out once nothing relies on it.");
    yaml.line(2, "compat: opa-envoy");
    yaml.text(2, "decision", &decision(&mut plugin, findings));
    if let Some(path) = plugin.text("proto-descriptor") {
        yaml.text(2, "proto_descriptor", &path);
    }
    plugin.finish(findings);
}

fn listener(plugin: &mut Section, yaml: &mut Yaml, findings: &mut Findings) {
    let setting = plugin.at("addr");
    let text = plugin.text("addr").unwrap_or_else(|| ":9191".to_owned());
    yaml.line(0, "listeners:");
    match address(&text) {
        Some(unix) if unix.starts_with("unix:") => {
            yaml.text(0, "- address", &unix);
            yaml.comment(2, "User ids besides Doorward's own whose processes may call; Envoy's belongs here.");
            yaml.line(2, "callers: {uids: []}");
            let remedy = "add the user id that Envoy runs as to `listeners[0].callers.uids`";
            findings.manual(&setting, "the plugin lets everybody call who can open the socket", remedy);
        }
        found => {
            match &found {
                Some(_) => {
                    let reason = "the plugin's TCP port has no TLS, so this one is `insecure: true` by name";
                    findings.note(&setting, reason, "prefer a Unix socket");
                }
                None => {
                    let reason = "Doorward listens on an IP address or a Unix socket";
                    findings.manual(&setting, reason, "write the address under `listeners`");
                }
            }
            yaml.text(0, "- address", &found.unwrap_or_else(|| "tcp://127.0.0.1:9191".to_owned()));
            yaml.comment(
                2,
                "As with the plugin, whoever reaches the address can ask, and speak for any workload. A Unix socket, or",
            );
            yaml.comment(2, "`tls` with `callers.spiffe_ids`, is safer.");
            yaml.line(2, "insecure: true");
        }
    }
    yaml.comment(
        2,
        "Envoy is believed to have checked certificates. With `trust.domains`, Doorward checks them: `trust: sidecar`.",
    );
    yaml.line(2, "peer: {trust: certificate}");
    if plugin.flag("enable-reflection") == Some(true) {
        yaml.line(2, "reflection: true");
    }
    if plugin.flag("skip-request-body-parse") == Some(true) {
        yaml.line(2, "skip_body_parse: true");
    }
}

/// The plugin's address in our form.
fn address(text: &str) -> Option<String> {
    if text.starts_with("unix://") {
        return text.parse::<crate::config::Address>().ok().map(|address| address.to_string());
    }
    let (host, port) = text.strip_prefix("grpc://").unwrap_or(text).rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    let host: IpAddr = match host {
        "" => [0, 0, 0, 0].into(),
        "localhost" => [127, 0, 0, 1].into(),
        other => other.trim_matches(['[', ']']).parse().ok()?,
    };
    Some(format!("tcp://{}", std::net::SocketAddr::new(host, port)))
}

/// The rule that decides: `path`, or what the old `query` asks about where that is a path too.
fn decision(plugin: &mut Section, findings: &mut Findings) -> String {
    let usual = "envoy/authz/allow".to_owned();
    if let Some(path) = plugin.text("path") {
        let trimmed = path.trim_matches('/');
        return if trimmed.is_empty() { usual } else { trimmed.to_owned() };
    }
    let Some(query) = plugin.text("query") else { return usual };
    let plain = |name: &&str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    match query.strip_prefix("data.").map(|path| path.split('.').collect::<Vec<_>>()) {
        Some(parts) if parts.iter().all(plain) => parts.join("/"),
        _ => {
            let reason = "Doorward asks for the value of one rule, not for the answers of a query";
            findings.missing(&plugin.at("query"), reason, "write a rule that says the same and name it in `policy.decision`");
            usual
        }
    }
}

/// `policy.bundles`, `signing`, `cache` and `limits.total`.
pub(super) fn bundles(root: &mut Section, services: &mut Services, yaml: &mut Yaml, findings: &mut Findings) {
    let keys = keys(root, yaml, findings);
    let folder = root.text("persistence_directory");
    let mut sources = root.sections("bundles");
    sources.extend(legacy(root));
    let mut written = Written { keys: &keys, names: Vec::new(), persisted: false, largest: None };
    yaml.line(2, "bundles:");
    for (name, section) in sources {
        written.bundle(&name, section, services, yaml, findings);
    }
    if written.names.is_empty() {
        yaml.comment(2, "What `opa run` was given on its command line.");
        yaml.line(2, "- path: policy/");
        findings.manual(
            "bundles",
            "no bundle is configured here, so OPA gets its policy otherwise",
            "name it under `policy.bundles`",
        );
    }
    if written.persisted {
        yaml.text(2, "cache", folder.as_deref().unwrap_or(PERSISTENCE));
    } else if folder.is_some() {
        findings.note("persistence_directory", "no bundle is persisted", "set `policy.cache` to keep them all");
    }
    if let Some(largest) = written.largest {
        yaml.line(2, &format!("limits: {{total: {largest}B}}"));
    }
}

/// The single bundle of old configurations.
fn legacy(root: &mut Section) -> Option<(String, Section)> {
    let mut section = root.section("bundle")?;
    let name = section.text("name").unwrap_or_else(|| "bundle".to_owned());
    let prefix = section.text("prefix").unwrap_or_else(|| "bundles".to_owned());
    if !section.members.contains_key("resource") {
        section.members.insert("resource".to_owned(), format!("{prefix}/{name}").into());
    }
    Some((name, section))
}

struct Key {
    scope: Option<String>,
}

/// Writes `signing`, and returns the keys in it.
fn keys(root: &mut Section, yaml: &mut Yaml, findings: &mut Findings) -> BTreeMap<String, Key> {
    let mut keys = BTreeMap::new();
    for (id, mut section) in root.sections("keys") {
        let Some(key) = section.text("key") else {
            section.finish(findings);
            continue;
        };
        let algorithm = section.text("algorithm").unwrap_or_else(|| "RS256".to_owned());
        if serde_json::from_value::<SigningAlgorithm>(algorithm.as_str().into()).is_err() {
            let reason = format!("bundles signed with `{algorithm}` cannot be verified");
            findings.missing(
                &section.at("algorithm"),
                &reason,
                "sign with one of `doorward config schema`, such as RS256 or ES256",
            );
            continue;
        }
        if keys.is_empty() {
            yaml.line(2, "signing:");
            yaml.line(4, "keys:");
        }
        let file = format!("keys/{}", file_name(&id));
        yaml.line(6, &format!("{}: {{algorithm: {algorithm}, key_file: {}}}", quoted(&id), quoted(&file)));
        let what = if key.contains("-----BEGIN") { "the PEM text" } else { "the secret, without a final newline," };
        let remedy = format!("write {what} to `{file}`");
        findings.manual(&section.at("key"), "Doorward reads keys from files", &remedy);
        keys.insert(id, Key { scope: section.text("scope") });
        section.finish(findings);
    }
    keys
}

fn file_name(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let name: String = text.chars().map(plain).take(60).collect();
    name.trim_start_matches('.').to_owned()
}

/// What the bundles so far have come to.
struct Written<'a> {
    keys: &'a BTreeMap<String, Key>,
    names: Vec<String>,
    persisted: bool,
    largest: Option<u64>,
}

impl Written<'_> {
    fn bundle(&mut self, name: &str, mut section: Section, services: &mut Services, yaml: &mut Yaml, findings: &mut Findings) {
        let own = self.name(name);
        if own != name {
            findings.note(&section.path, "Doorward's names become file names", &format!("the bundle is called `{own}`"));
        }
        yaml.text(2, "- name", &own);
        let resource = section.text("resource").unwrap_or_else(|| format!("bundles/{name}"));
        match resource.strip_prefix("file://") {
            Some(path) => {
                section.text("service");
                section.section("polling");
                yaml.text(4, "path", path);
            }
            None => {
                let (named, setting) = (section.text("service"), section.at("service"));
                let service = services.named(named.as_deref(), &setting, findings);
                match service {
                    Some(service) => source(&service, &resource, &mut section, yaml, findings),
                    None => yaml.text(4, "url", "https://address.invalid"),
                }
            }
        }
        self.signing(&mut section, yaml, findings);
        self.persisted |= section.flag("persist") == Some(true);
        self.largest = self.largest.max(section.count("size_limit_bytes"));
        section.finish(findings);
        self.names.push(own);
    }

    /// A name that ours may be, and that none has yet.
    fn name(&self, name: &str) -> String {
        let mut own = if is_name(name) { name.to_owned() } else { file_name(name) };
        if own.is_empty() {
            own = "bundle".to_owned();
        }
        while self.names.contains(&own) {
            own.push('_');
        }
        own
    }

    fn signing(&self, section: &mut Section, yaml: &mut Yaml, findings: &mut Findings) {
        let at = section.at("signing");
        let Some(mut signing) = section.section("signing") else {
            if !self.keys.is_empty() {
                let reason = "with `keys`, OPA accepts this bundle unsigned too; Doorward wants a signature";
                findings.note(&at, reason, "add `unsigned: true` under the bundle if it has none");
            }
            return;
        };
        let (keyid, scope) = (signing.text("keyid"), signing.text("scope"));
        let exclude = signing.texts("exclude_files").unwrap_or_default();
        signing.finish(findings);
        if self.keys.is_empty() {
            findings.manual(
                &at,
                "no key that verifies is configured here",
                "add `policy.signing.keys`, from `--verification-key` of `opa run`",
            );
            return;
        }
        let known = keyid.filter(|id| self.keys.contains_key(id));
        let scope = scope.or_else(|| known.as_ref().and_then(|id| self.keys.get(id)?.scope.clone()));
        if known.is_none() && scope.is_none() && exclude.is_empty() {
            return;
        }
        yaml.line(4, "signing:");
        known.iter().for_each(|id| yaml.text(6, "keyid", id));
        scope.iter().for_each(|scope| yaml.text(6, "scope", scope));
        if !exclude.is_empty() {
            let list: Vec<_> = exclude.iter().map(|pattern| quoted(pattern)).collect();
            yaml.line(6, &format!("exclude: [{}]", list.join(", ")));
        }
    }
}

/// Where a bundle is fetched from, and how often.
fn source(service: &Service, resource: &str, section: &mut Section, yaml: &mut Yaml, findings: &mut Findings) {
    service.write(4, &service.address(resource), yaml);
    let Some(mut polling) = section.section("polling") else { return };
    if let Some((min, max)) = polling.delays() {
        yaml.line(4, &format!("poll: {{min: {min}s, max: {max}s}}"));
    }
    polling.finish(findings);
}
