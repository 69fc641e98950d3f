//! `records.upload`: the log service that decisions are sent to, in the form of OPA's decision log.

use std::{collections::BTreeMap, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::{
    Poll, Shown, Size,
    bundle::{Reach, reach},
};

/// Smallest limit of a request: one event without its input, packed.
const MIN_CHUNK: usize = 1024;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Upload {
    /// Address of the log service, `https://…`. Events are posted to `URL/logs`, or `URL/logs/PARTITION`.
    pub url: Url,
    /// Last part of the path, where the service tells senders apart by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<String>,
    /// Path below `url`.
    #[serde(default = "Upload::default_resource")]
    pub resource: String,
    /// File with a bearer token, read again before each request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// The certificate that we show to the service, from files or with `workload_api` our own SVID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Shown>,
    /// PEM file of the authorities that the service's certificate may come from, instead of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Allow `http://` to another host. Whoever is on the way reads inputs and token.
    #[serde(default)]
    pub insecure: bool,
    /// How long events gather before they are sent; half a buffer full is sent at once. After a failure the wait doubles.
    #[serde(default)]
    pub delay: Poll,
    /// Bytes of events that may wait. Beyond it the oldest are dropped and counted.
    #[serde(default = "Upload::default_buffer")]
    pub buffer: Size,
    /// Largest request, compressed.
    #[serde(default = "Upload::default_chunk")]
    pub upload_size_limit: Size,
    /// Members of `labels` of each event, besides `id` and `version`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The rule that masks events, as a path below `data`. By default `system/log/mask`, where there is one; a rule that is
    /// named here has to be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<String>,
    /// The rule that withholds events; by default `system/log/drop`, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop: Option<String>,
}

impl Upload {
    fn default_resource() -> String {
        "logs".to_owned()
    }

    pub(super) const fn default_buffer() -> Size {
        Size::mib(16)
    }

    const fn default_chunk() -> Size {
        Size::kib(32)
    }

    /// Where events are posted to.
    pub fn address(&self) -> Url {
        let mut address = self.url.clone();
        if let Ok(mut path) = address.path_segments_mut() {
            path.pop_if_empty().extend(self.resource.split('/').filter(|part| !part.is_empty())).extend(&self.partition);
        }
        address
    }

    pub(super) fn paths_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let tls = self.tls.iter_mut().flat_map(Shown::paths_mut);
        tls.chain(&mut self.token_file).chain(&mut self.ca)
    }
}

/// What is wrong with it, as `(key, text)`.
pub(super) fn check(upload: &Upload, found: &mut Vec<(String, String)>) {
    let mut report = |key: &str, text: &str| found.push((format!("records.upload.{key}"), text.to_owned()));
    match reach(&upload.url) {
        Reach::Safe => {}
        Reach::Plain if upload.insecure => {}
        Reach::Plain => {
            report("url", "`http://` shows inputs and token to whoever is on the way; use `https://`, or write `insecure: true`")
        }
        Reach::Credentials => report("url", "credentials do not belong in the address; use `token_file`"),
        Reach::Other => report("url", "this is no address of a log service; use `https://`"),
    }
    if upload.partition.as_ref().is_some_and(|name| name.is_empty() || name.contains('/') || name.starts_with('.')) {
        report("partition", "a partition is one part of a path; write it without `/` and not beginning with `.`");
    }
    if upload.resource.split('/').any(|part| part.starts_with('.')) {
        report("resource", "a part of the path begins with `.`; write it out");
    }
    if upload.delay.max < upload.delay.min {
        report("delay.max", "`max` is shorter than `min`; swap them");
    }
    if upload.upload_size_limit.bytes() < MIN_CHUNK {
        report("upload_size_limit", "no event would fit; write at least `1KiB`");
    }
    if upload.buffer < upload.upload_size_limit {
        report("buffer", "the buffer is smaller than one request; raise it, or lower `upload_size_limit`");
    }
    for (key, rule) in [("mask", &upload.mask), ("drop", &upload.drop)] {
        if rule.as_ref().is_some_and(|rule| rule.split('/').all(str::is_empty)) {
            report(key, "no rule is named; write its path below `data`, like `system/log/mask`");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upload(text: &str) -> Upload {
        serde_saphyr::from_str(text).unwrap()
    }

    #[test]
    fn events_go_to_logs_below_the_address() {
        for (text, expected) in [
            ("url: https://h", "https://h/logs"),
            ("url: https://h/", "https://h/logs"),
            ("url: https://h/v1\npartition: eu west", "https://h/v1/logs/eu%20west"),
            ("url: https://h/v1/?a=b\nresource: /decisions/in", "https://h/v1/decisions/in?a=b"),
        ] {
            assert_eq!(upload(text).address().as_str(), expected);
        }
    }

    #[test]
    fn what_cannot_work_or_is_not_safe_is_named() {
        for (text, key) in [
            ("url: https://h", None),
            ("url: http://localhost:1", None),
            ("url: http://h\ninsecure: true", None),
            ("url: http://h", Some("url")),
            ("url: https://u:p@h", Some("url")),
            ("url: file:///x", Some("url")),
            ("url: https://h\npartition: a/b", Some("partition")),
            ("url: https://h\nresource: a/../b", Some("resource")),
            ("url: https://h\ndelay: {min: 2s, max: 1s}", Some("delay.max")),
            ("url: https://h\nupload_size_limit: 90B", Some("upload_size_limit")),
            ("url: https://h\nupload_size_limit: 1MiB\nbuffer: 64KiB", Some("buffer")),
            ("url: https://h\nmask: /", Some("mask")),
        ] {
            let mut found = Vec::new();
            check(&upload(text), &mut found);
            let keys: Vec<_> = found.iter().map(|(key, _)| key.as_str()).collect();
            assert_eq!(keys, key.map(|key| format!("records.upload.{key}")).iter().collect::<Vec<_>>(), "{text}");
        }
    }
}
