//! `alerts`: what becomes an alert, and the Alertmanagers that are told.

use std::{collections::BTreeMap, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::{
    Shown, Span,
    bundle::{Reach, reach},
};

/// Most Alertmanagers, and most labels of one's own.
const MAX_URLS: usize = 8;
const MAX_LABELS: usize = 16;
/// Longest value of such a label, in bytes.
const MAX_VALUE: usize = 256;
/// Most alerts that a table may be made for.
const MAX_ALERTS: usize = 100_000;
/// Labels that an alert has of its own.
const OWN: [&str; 11] = [
    "action",
    "alertname",
    "cluster",
    "enforced",
    "environment",
    "escalation",
    "owner",
    "principal",
    "revoked",
    "severity",
    "zone",
];

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Alerts {
    pub alertmanager: Alertmanager,
    /// Rules that make no alerts here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<AlertRule>,
    /// An alert is over when what it tells of has not happened for so long.
    #[serde(default = "Alerts::default_resolve_after")]
    pub resolve_after: Span,
    /// A revocation that was made is an alert for so long, or until it ends.
    #[serde(default = "Alerts::default_revocation")]
    pub revocation: Span,
    /// How long an alert that an Alertmanager has not taken is kept for it, once it is over, while there is room.
    #[serde(default = "Alerts::default_keep")]
    pub keep: Span,
    /// Most alerts at a time that callers bring about, half of them no more than warnings, and as many revocations. What goes
    /// beyond is one alert more, which says so.
    #[serde(default = "Alerts::default_max")]
    pub max: usize,
    /// Most alerts that one principal brings about.
    #[serde(default = "Alerts::default_max_per_principal")]
    pub max_per_principal: usize,
    /// More labels of every alert. `instance` is the pod's name unless it stands here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Where people read on: the `generatorURL` of every alert.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generator_url: Option<Url>,
}

/// Where alerts go. Each of the addresses gets all of them, as Alertmanager wants it of its clients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Alertmanager {
    /// Addresses, `https://…`, without `/api/v2/alerts`.
    pub urls: Vec<Url>,
    /// File with a bearer token, read again before each request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// The certificate that we show, from files or with `workload_api` our own SVID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Shown>,
    /// PEM file of the authorities that the servers' certificates may come from, instead of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Allow `http://` to another host. Whoever is on the way reads who was denied what, and the token.
    #[serde(default)]
    pub insecure: bool,
    /// How often an alert is sent while it lasts. Four of these without one, and Alertmanager takes it for over. After a
    /// failure it is sent again sooner: after half a second, then twice that, and so on up to this.
    #[serde(default = "Alertmanager::default_interval")]
    pub interval: Span,
    /// Longest time for one request.
    #[serde(default = "Alertmanager::default_timeout")]
    pub timeout: Span,
}

/// What becomes an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AlertRule {
    /// A critical action was denied.
    CriticalDenial,
    /// A caller whose risk is high makes calls.
    HighRisk,
    /// The registry does not know who makes calls.
    Unregistered,
    /// The registry names no owner of who makes calls.
    Unowned,
    /// A registration has ended, or a certificate is older or lives longer than the registry allows, and is used.
    Overdue,
    /// Somebody revoked something.
    Revocation,
    /// What was revoked is used.
    RevokedUse,
}

impl Alerts {
    const fn default_resolve_after() -> Span {
        Span::millis(300_000)
    }

    const fn default_revocation() -> Span {
        Span::millis(3_600_000)
    }

    const fn default_keep() -> Span {
        Span::millis(3_600_000)
    }

    const fn default_max() -> usize {
        1_000
    }

    const fn default_max_per_principal() -> usize {
        20
    }

    pub(super) fn paths_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let Alertmanager { token_file, tls, ca, .. } = &mut self.alertmanager;
        tls.iter_mut().flat_map(Shown::paths_mut).chain(token_file).chain(ca)
    }
}

impl Alertmanager {
    const fn default_interval() -> Span {
        Span::millis(60_000)
    }

    const fn default_timeout() -> Span {
        Span::millis(10_000)
    }

    /// Where alerts are posted to.
    pub fn addresses(&self) -> impl Iterator<Item = Url> {
        self.urls.iter().map(|url| {
            let mut address = url.clone();
            if let Ok(mut path) = address.path_segments_mut() {
                path.pop_if_empty().extend(["api", "v2", "alerts"]);
            }
            address
        })
    }
}

/// What is wrong with it, as `(key, text)`.
pub(super) fn check(alerts: &Alerts, found: &mut Vec<(String, String)>) {
    let mut report = |key: &str, text: &str| found.push((format!("alerts.{key}"), text.to_owned()));
    let Alertmanager { urls, insecure, interval, timeout, .. } = &alerts.alertmanager;
    if urls.is_empty() {
        report("alertmanager.urls", "nobody would be told; name an Alertmanager, or remove `alerts`");
    }
    if urls.len() > MAX_URLS {
        report("alertmanager.urls", "that are too many; name the members of one cluster, at most 8");
    }
    for (index, url) in urls.iter().enumerate() {
        let key = format!("alertmanager.urls[{index}]");
        match reach(url) {
            Reach::Safe => {}
            Reach::Plain if *insecure => {}
            Reach::Plain => report(
                &key,
                "`http://` shows who was denied what to whoever is on the way; use `https://`, or write `insecure: true`",
            ),
            Reach::Credentials => report(&key, "credentials do not belong in the address; use `token_file` or `tls`"),
            Reach::Other => report(&key, "this is no address of an Alertmanager; use `https://`"),
        }
        if url.path().trim_end_matches('/').ends_with("/api/v2/alerts") {
            report(&key, "the path of the API is added to it; leave `/api/v2/alerts` out");
        }
        if urls.iter().take(index).any(|other| other == url) {
            report(&key, "it is named twice; remove one of the two");
        }
    }
    if timeout > interval {
        report("alertmanager.timeout", "a request may take longer than the time between two; write less than `interval`");
    }
    if alerts.max == 0 || alerts.max > MAX_ALERTS {
        report("max", "write a number from 1 to 100000");
    }
    if alerts.max_per_principal == 0 || alerts.max_per_principal > alerts.max {
        report("max_per_principal", "write at least 1, and no more than `max`");
    }
    if alerts.labels.len() > MAX_LABELS {
        report("labels", "that are too many; 16 are taken");
    }
    for (name, value) in &alerts.labels {
        let key = format!("labels.{name}");
        let starts = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
        if !starts || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') || name.len() > MAX_VALUE {
            report(&key, "this is no name of a label; write letters, digits and `_`, a digit not first");
        } else if OWN.contains(&name.as_str()) {
            report(&key, "every alert has a label of its own by this name; choose another");
        }
        if value.is_empty() || value.len() > MAX_VALUE {
            report(&key, "the value of a label has 1 to 256 bytes");
        }
    }
    if let Some(url) = &alerts.generator_url
        && !matches!(reach(url), Reach::Safe | Reach::Plain)
    {
        report("generator_url", "people open it in a browser; write `https://…`, without credentials");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alerts(text: &str) -> Alerts {
        serde_saphyr::from_str(text).unwrap()
    }

    #[test]
    fn alerts_are_posted_below_the_address() {
        for (url, expected) in [
            ("https://h", "https://h/api/v2/alerts"),
            ("https://h:9093/", "https://h:9093/api/v2/alerts"),
            ("https://h/am", "https://h/am/api/v2/alerts"),
        ] {
            let alerts = alerts(&format!("alertmanager: {{urls: [\"{url}\"]}}"));
            assert_eq!(alerts.alertmanager.addresses().map(String::from).collect::<Vec<_>>(), [expected]);
        }
    }

    #[test]
    fn what_cannot_work_or_is_not_safe_is_named() {
        for (text, key) in [
            ("alertmanager: {urls: [https://h]}", None),
            ("alertmanager: {urls: [http://127.0.0.1:9093]}\nexcept: [unowned]\nlabels: {team: a}", None),
            ("alertmanager: {urls: [http://h], insecure: true}\ngenerator_url: http://wiki/doorward", None),
            ("alertmanager: {urls: []}", Some("alertmanager.urls")),
            ("alertmanager: {urls: [https://h, http://h]}", Some("alertmanager.urls[1]")),
            ("alertmanager: {urls: [https://u:p@h]}", Some("alertmanager.urls[0]")),
            ("alertmanager: {urls: [file:///x]}", Some("alertmanager.urls[0]")),
            ("alertmanager: {urls: [https://h/api/v2/alerts]}", Some("alertmanager.urls[0]")),
            ("alertmanager: {urls: [https://h, https://h]}", Some("alertmanager.urls[1]")),
            ("alertmanager: {urls: [https://h], interval: 1s}", Some("alertmanager.timeout")),
            ("alertmanager: {urls: [https://h]}\nmax: 0\nmax_per_principal: 1", Some("max")),
            ("alertmanager: {urls: [https://h]}\nmax: 5", Some("max_per_principal")),
            ("alertmanager: {urls: [https://h]}\nlabels: {owner: me}", Some("labels.owner")),
            ("alertmanager: {urls: [https://h]}\nlabels: {1a: me}", Some("labels.1a")),
            ("alertmanager: {urls: [https://h]}\nlabels: {a: ''}", Some("labels.a")),
            ("alertmanager: {urls: [https://h]}\ngenerator_url: 'javascript:x'", Some("generator_url")),
        ] {
            let mut found = Vec::new();
            check(&alerts(text), &mut found);
            let keys: Vec<_> = found.iter().map(|(key, _)| key.strip_prefix("alerts.").unwrap()).collect();
            let expected: Vec<_> = key.into_iter().collect();
            // No `max` is enough for nobody's share.
            assert_eq!(keys.first(), expected.first(), "{text}: {found:?}");
        }
        for text in ["{}", "alertmanager: {}", "alertmanager: {urls: [https://h]}\nexcept: [everything]"] {
            assert!(serde_saphyr::from_str::<Alerts>(text).is_err(), "{text}");
        }
    }
}
