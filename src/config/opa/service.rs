//! OPA's `services`: where bundles come from and logs go to, and what OPA shows there.

use serde_json::Value;
use url::Url;

use super::{Findings, Section, Yaml, joined};
use crate::config::bundle::{Reach, reach};

/// Stands for an address that cannot be read.
const NOWHERE: &str = "https://address.invalid";

/// Every service, in order.
pub(super) struct Services(Vec<Service>);

/// One server, as Doorward reaches it.
#[derive(Clone)]
pub(super) struct Service {
    name: String,
    /// None where it cannot be read.
    url: Option<Url>,
    token_file: Option<String>,
    tls: Option<(String, String)>,
    ca: Option<String>,
    used: bool,
}

impl Services {
    /// A list of services with names, or an object of them.
    pub(super) fn take(root: &mut Section, findings: &mut Findings) -> Self {
        let mut sections = root.sections("services");
        let listed = root.take("services", |value| value.as_array().cloned()).unwrap_or_default();
        for (at, value) in listed.into_iter().enumerate() {
            if let Value::Object(members) = value {
                let mut section = Section { path: joined("services", &at.to_string()), members };
                let name = section.text("name").unwrap_or_else(|| at.to_string());
                sections.push((name, section));
            }
        }
        Self(sections.into_iter().map(|(name, section)| Service::read(name, section, findings)).collect())
    }

    /// The service that a part names, or the first one where it names none.
    pub(super) fn named(&mut self, name: Option<&str>, setting: &str, findings: &mut Findings) -> Option<Service> {
        if name.is_none() && self.0.len() > 1 {
            findings.note(setting, "no service is named, so OPA takes the first", "look whether the address is the one meant");
        }
        let found = self.0.iter_mut().find(|service| name.is_none_or(|name| service.name == name));
        if let Some(service) = found {
            service.used = true;
            return Some(service.clone());
        }
        findings.manual(setting, "there is no such service, so OPA itself would refuse this", "name one of `services`");
        None
    }

    pub(super) fn finish(self, findings: &mut Findings) {
        for service in self.0.iter().filter(|service| !service.used) {
            let setting = joined("services", &service.name);
            findings.note(&setting, "nothing that is translated uses this service", "nothing to do");
        }
    }
}

impl Service {
    fn read(name: String, mut section: Section, findings: &mut Findings) -> Self {
        section.text("name");
        let text = section.text("url").unwrap_or_default();
        let url = Url::parse(&text).ok().filter(Url::has_host);
        if url.is_none() {
            findings.manual(&section.at("url"), "this is no whole address", "put the address in the place of `address.invalid`");
        }
        let mut service = Self { name, url, token_file: None, tls: None, ca: None, used: false };
        if section.count("response_header_timeout_seconds").is_some() {
            findings.note(
                &section.at("response_header_timeout_seconds"),
                "Doorward limits the whole request, not the wait for its head",
                "the default is 60 s; change it with `timeout` under `poll` or `delay`",
            );
        }
        if section.flag("allow_insecure_tls") == Some(true) {
            findings.missing(
                &section.at("allow_insecure_tls"),
                "a certificate that is not checked proves nothing",
                "name the authority of the server's certificate with `ca`",
            );
        }
        if let Some(mut tls) = section.section("tls") {
            service.ca = tls.text("ca_cert");
            system_too(&mut tls, findings);
            tls.finish(findings);
        }
        if let Some(credentials) = section.section("credentials") {
            service.credentials(credentials, findings);
        }
        section.finish(findings);
        service
    }

    fn credentials(&mut self, mut section: Section, findings: &mut Findings) {
        if let Some(mut bearer) = section.section("bearer") {
            if let Some(scheme) = bearer.text("scheme").filter(|scheme| scheme != "Bearer") {
                let reason = format!("Doorward sends `Bearer`, not `{scheme}`");
                findings.missing(&bearer.at("scheme"), &reason, "let the service take a bearer token, or a client certificate");
            }
            self.token_file = bearer.text("token_path");
            if bearer.text("token").is_some() {
                let file = format!("tokens/{}", self.name);
                let remedy = format!("write the token to `{file}`, readable by Doorward alone");
                findings.manual(
                    &bearer.at("token"),
                    "a secret does not belong in a configuration; Doorward reads it from a file",
                    &remedy,
                );
                self.token_file.get_or_insert(file);
            }
            bearer.finish(findings);
        }
        if let Some(mut tls) = section.section("client_tls") {
            self.tls = tls.text("cert").zip(tls.text("private_key"));
            if self.tls.is_none() {
                findings.missing(&tls.path, "`cert` or `private_key` is not there", "name both under `tls`");
            }
            if let Some(ca) = tls.text("ca_cert") {
                self.ca.get_or_insert(ca);
            }
            system_too(&mut tls, findings);
            if tls.count("cert_reread_interval_seconds").is_some() {
                findings.note(
                    &tls.at("cert_reread_interval_seconds"),
                    "certificates are read anew for each request",
                    "nothing to do",
                );
            }
            tls.finish(findings);
        }
        section.finish(findings);
    }

    /// A path below the service's address.
    pub(super) fn address(&self, resource: &str) -> String {
        let Some(mut url) = self.url.clone() else { return NOWHERE.to_owned() };
        let (path, query) = resource.split_once('?').map_or((resource, None), |(path, query)| (path, Some(query)));
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path.split('/').filter(|part| !part.is_empty()));
        }
        if query.is_some() {
            url.set_query(query);
        }
        url.to_string()
    }

    /// The lines that say how to reach it, at `address`.
    pub(super) fn write(&self, indent: usize, address: &str, yaml: &mut Yaml) {
        yaml.text(indent, "url", address);
        if Url::parse(address).is_ok_and(|url| matches!(reach(&url), Reach::Plain)) {
            yaml.comment(indent, "As with OPA, anybody on the way may read and change what is sent; `https://` is safer.");
            yaml.line(indent, "insecure: true");
        }
        if let Some(file) = &self.token_file {
            yaml.text(indent, "token_file", file);
        }
        if let Some((certificate, key)) = &self.tls {
            yaml.line(indent, "tls:");
            yaml.text(indent + 2, "certificate", certificate);
            yaml.text(indent + 2, "key", key);
        }
        if let Some(ca) = &self.ca {
            yaml.text(indent, "ca", ca);
        }
    }
}

fn system_too(section: &mut Section, findings: &mut Findings) {
    if section.flag("system_ca_required") == Some(true) {
        findings.manual(
            &section.at("system_ca_required"),
            "with `ca`, Doorward trusts the authorities in that file and no others",
            "add the system's authorities to the file, or leave `ca` out",
        );
    }
}
