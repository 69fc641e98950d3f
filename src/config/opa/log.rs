//! The decision log, its labels, and tracing.

use serde_json::Value;

use super::{Findings, Section, Yaml, quoted, service::Services};

/// Least that `upload_size_limit` may be, and the default of `buffer`, in bytes.
const MIN_UPLOAD: u64 = 1024;
const UPLOAD: u64 = 32 * 1024;
const BUFFER: u64 = 16 * 1024 * 1024;

/// `records`.
pub(super) fn decisions(root: &mut Section, services: &mut Services, yaml: &mut Yaml, findings: &mut Findings) {
    yaml.line(0, "records:");
    yaml.comment(2, "Every decision leaves a record; `sink: off` keeps them out of standard output.");
    yaml.line(2, "sink: stdout");
    if root.flag("nd_builtin_cache").is_some() {
        findings.note("nd_builtin_cache", "what `rand` and `uuid` gave is always recorded", "nothing to do");
    }
    let labels = root.section("labels");
    let Some(mut section) = root.section("decision_logs") else {
        labels.into_iter().for_each(|labels| labels.finish(findings));
        return;
    };
    let console = section.flag("console") == Some(true);
    if section.flag("nd_builtin_cache").is_some() {
        findings.note(&section.at("nd_builtin_cache"), "what `rand` and `uuid` gave is always recorded", "nothing to do");
    }
    let (named, setting) = (section.text("service"), section.at("service"));
    let uploads = named.is_some() || !console && !section.members.contains_key("plugin");
    match uploads.then(|| services.named(named.as_deref(), &setting, findings)).flatten() {
        Some(service) => {
            yaml.line(2, "upload:");
            service.write(4, &service.address(""), yaml);
            upload(&mut section, labels, yaml, findings);
        }
        None => labels.into_iter().for_each(|labels| labels.finish(findings)),
    }
    section.finish(findings);
}

fn upload(section: &mut Section, labels: Option<Section>, yaml: &mut Yaml, findings: &mut Findings) {
    let (partition, resource) = (section.text("partition_name"), section.text("resource"));
    match (partition, resource) {
        (Some(partition), _) => yaml.text(4, "partition", &partition),
        (None, Some(resource)) => yaml.text(4, "resource", resource.trim_matches('/')),
        (None, None) => {}
    }
    if let Some(mut reporting) = section.section("reporting") {
        limits(&mut reporting, yaml, findings);
        reporting.finish(findings);
    }
    for (theirs, ours, usual) in [("mask_decision", "mask", "system/log/mask"), ("drop_decision", "drop", "system/log/drop")] {
        let setting = section.at(theirs);
        if let Some(path) = section.text(theirs).filter(|path| path.trim_matches('/') != usual) {
            yaml.text(4, ours, path.trim_matches('/'));
            let reason = "a rule that is named has to be there; without it Doorward sends no input";
            findings.note(&setting, reason, "leave the key out where the policy has no such rule");
        }
    }
    if let Some(mut labels) = labels {
        let known: Vec<_> =
            labels.members.iter().filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect();
        labels.members.retain(|_, value| !value.is_string());
        if !known.is_empty() {
            yaml.line(4, "labels:");
            known.iter().for_each(|(key, value)| yaml.text(6, &quoted(key), value));
        }
        labels.finish(findings);
    }
}

fn limits(reporting: &mut Section, yaml: &mut Yaml, findings: &mut Findings) {
    if let Some((min, max)) = reporting.delays() {
        yaml.line(4, &format!("delay: {{min: {min}s, max: {max}s}}"));
    }
    let size = reporting.count("upload_size_limit_bytes");
    let limit = size.unwrap_or(UPLOAD).max(MIN_UPLOAD);
    if size.is_some() {
        yaml.line(4, &format!("upload_size_limit: {limit}B"));
    }
    let buffer = reporting.count("buffer_size_limit_bytes");
    if buffer.is_some() || limit > BUFFER {
        yaml.line(4, &format!("buffer: {}B", buffer.unwrap_or(limit).max(limit)));
    }
    let kind = reporting.text("buffer_type");
    if kind.as_deref() == Some("event") || reporting.members.contains_key("buffer_size_limit_events") {
        reporting.count("buffer_size_limit_events");
        findings.note(
            &reporting.at("buffer_size_limit_events"),
            "Doorward bounds what waits in bytes, not in events",
            "set `records.upload.buffer`, 16MiB by default",
        );
    }
    if let Some(trigger) = reporting.text("trigger").filter(|trigger| trigger != "periodic") {
        let reason =
            format!("`{trigger}` is not to be had: events are sent after `delay`, or as soon as half the buffer is full");
        findings.missing(&reporting.at("trigger"), &reason, "set a short `records.upload.delay`");
    }
}

/// `telemetry`.
pub(super) fn tracing(root: &mut Section, yaml: &mut Yaml, findings: &mut Findings) {
    let Some(mut section) = root.section("distributed_tracing") else { return };
    let kind = section.text("type").unwrap_or_default();
    let encryption = section.text("encryption").unwrap_or_else(|| "off".to_owned());
    let address = section.text("address").unwrap_or_else(|| "localhost:4317".to_owned());
    if encryption != "off" {
        let reason = "Doorward speaks OTLP without TLS";
        findings.missing(&section.at("encryption"), reason, "send to a collector on the same host, and let that one encrypt");
    }
    match kind.as_str() {
        "grpc" if !address.contains("${") && !address.contains('/') => {
            yaml.line(0, "telemetry:");
            yaml.line(2, "otlp:");
            yaml.text(4, "endpoint", &format!("http://{address}"));
            yaml.comment(4, "OPA sends traces alone.");
            yaml.line(4, "metrics: false");
            yaml.line(4, "logs: false");
            if let Some(percentage) = section.number("sample_percentage") {
                yaml.line(4, &format!("sample: {}", Value::from((percentage / 100.0).clamp(0.0, 1.0))));
            }
        }
        "" => findings.note(&section.path, "without `type` OPA traces nothing", "nothing to do"),
        _ => findings.missing(
            &section.at("type"),
            "Doorward speaks OTLP over gRPC alone",
            "set `telemetry.otlp.endpoint`, port 4317",
        ),
    }
    if let Some(name) = section.text("service_name") {
        let remedy = format!("set OTEL_SERVICE_NAME={name}");
        findings.manual(&section.at("service_name"), "the name comes from the environment", &remedy);
    }
    for (key, value) in section.section("resource").map(|resource| resource.members).unwrap_or_default() {
        let attribute = format!("{}={}", key.replace('_', "."), value.as_str().unwrap_or_default());
        let setting = format!("distributed_tracing.resource.{key}");
        findings.manual(
            &setting,
            "attributes come from the environment",
            &format!("add `{attribute}` to OTEL_RESOURCE_ATTRIBUTES"),
        );
    }
    section.finish(findings);
}
