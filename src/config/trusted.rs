//! `trust`: what vouches for whose SVIDs, who we are ourselves, and the certificates that we show.

use std::{borrow::Cow, collections::BTreeMap, fmt, path::PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_with::{DisplayFromStr, serde_as};
use spiffe::TrustDomain;

use super::units::{Span, WorkloadEndpoint};

#[serde_as]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Trust {
    /// Trust domain name to its bundle.
    #[serde_as(as = "BTreeMap<DisplayFromStr, _>")]
    #[schemars(with = "BTreeMap<String, Domain>")]
    pub domains: BTreeMap<TrustDomain, Domain>,
    /// Where the SPIFFE Workload API is, for what says `workload_api`; else `SPIFFE_ENDPOINT_SOCKET` says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload_api: Option<WorkloadEndpoint>,
    /// How long the last bundles of the Workload API count while it cannot be reached.
    pub max_stale: Span,
    /// What becomes of them after that.
    pub on_stale: OnStale,
    /// Who we are.
    #[serde(rename = "self", skip_serializing_if = "Option::is_none")]
    pub own: Option<Own>,
}

impl Default for Trust {
    fn default() -> Self {
        Self {
            domains: BTreeMap::new(),
            workload_api: None,
            max_stale: Span::millis(60 * 60 * 1000),
            on_stale: OnStale::Deny,
            own: None,
        }
    }
}

impl Trust {
    /// Whether any bundle comes from the Workload API.
    pub fn has_workload_bundles(&self) -> bool {
        self.domains.values().any(|domain| domain.source == BundleSource::WorkloadApi)
    }

    /// Every file that may be replaced while we run.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> {
        let mut all = self.clone();
        all.paths_mut().map(|path| path.clone()).collect::<Vec<_>>().into_iter()
    }

    pub(super) fn paths_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let bundles = self.domains.values_mut().filter_map(|domain| match &mut domain.source {
            BundleSource::File(path) => Some(path),
            BundleSource::WorkloadApi => None,
        });
        let own = self.own.iter_mut().filter_map(|own| match own {
            Own::Files(files) => Some(files.paths_mut()),
            Own::WorkloadApi => None,
        });
        bundles.chain(own.flatten())
    }
}

/// What a bundle that nobody has confirmed for `max_stale` is still worth. To deny is the default: whoever cuts us off
/// from the Workload API could else keep a root alive that its domain has withdrawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnStale {
    /// Its callers are denied until the Workload API is back.
    #[default]
    Deny,
    /// It counts on. Readiness and metrics tell its age.
    Keep,
}

/// What is trusted for one trust domain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "DomainKeys", into = "DomainKeys")]
pub struct Domain {
    pub source: BundleSource,
    pub backdate: Option<Span>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BundleSource {
    File(PathBuf),
    WorkloadApi,
}

/// A trust domain as it stands in the file: with `bundle` or with `workload_api`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DomainKeys {
    /// File with the root certificates of the trust domain, as PEM, or with its SPIFFE bundle, as JSON. An empty bundle
    /// makes all its SVIDs invalid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bundle: Option<PathBuf>,
    /// Instead of `bundle`: as the SPIFFE Workload API says, from message to message. What it says no more is trusted no
    /// more.
    #[serde(default, skip_serializing_if = "is_false")]
    workload_api: bool,
    /// How far back the domain's authority dates `notBefore`: 10 s with SPIRE. What was issued before an instant is told
    /// by `notBefore` and this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    backdate: Option<Span>,
}

impl TryFrom<DomainKeys> for Domain {
    type Error = &'static str;

    fn try_from(DomainKeys { bundle, workload_api, backdate }: DomainKeys) -> Result<Self, Self::Error> {
        let source = match (bundle, workload_api) {
            (Some(path), false) => BundleSource::File(path),
            (None, true) => BundleSource::WorkloadApi,
            (Some(_), true) => return Err("a trust domain has a `bundle` or `workload_api: true`, not both; remove one"),
            (None, false) => return Err("a trust domain needs a `bundle` or `workload_api: true`"),
        };
        Ok(Self { source, backdate })
    }
}

impl From<Domain> for DomainKeys {
    fn from(Domain { source, backdate }: Domain) -> Self {
        match source {
            BundleSource::File(path) => Self { bundle: Some(path), workload_api: false, backdate },
            BundleSource::WorkloadApi => Self { bundle: None, workload_api: true, backdate },
        }
    }
}

impl JsonSchema for Domain {
    fn schema_name() -> Cow<'static, str> {
        "Domain".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        DomainKeys::json_schema(generator)
    }
}

/// Where our own SVID comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "OwnKeys", into = "OwnKeys")]
pub enum Own {
    Files(Tls),
    WorkloadApi,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct OwnKeys {
    /// Our SVID is the first one that the SPIFFE Workload API gives us.
    #[serde(default, skip_serializing_if = "is_false")]
    workload_api: bool,
    /// Instead of `workload_api`: PEM file with our certificate, then its intermediates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certificate: Option<PathBuf>,
    /// PEM file with its private key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<PathBuf>,
}

impl TryFrom<OwnKeys> for Own {
    type Error = &'static str;

    fn try_from(OwnKeys { workload_api, certificate, key }: OwnKeys) -> Result<Self, Self::Error> {
        match (workload_api, certificate, key) {
            (true, None, None) => Ok(Self::WorkloadApi),
            (false, Some(certificate), Some(key)) => Ok(Self::Files(Tls { certificate, key })),
            (true, ..) => Err("`workload_api: true` brings its own certificate and key; remove `certificate` and `key`"),
            (false, ..) => Err("our own SVID needs `workload_api: true`, or `certificate` and `key`"),
        }
    }
}

impl From<Own> for OwnKeys {
    fn from(own: Own) -> Self {
        match own {
            Own::WorkloadApi => Self { workload_api: true, certificate: None, key: None },
            Own::Files(Tls { certificate, key }) => Self { workload_api: false, certificate: Some(certificate), key: Some(key) },
        }
    }
}

impl JsonSchema for Own {
    fn schema_name() -> Cow<'static, str> {
        "Own".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        OwnKeys::json_schema(generator)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM file: our certificate, then its intermediates.
    pub certificate: PathBuf,
    /// PEM file: the private key.
    pub key: PathBuf,
}

impl Tls {
    pub(super) fn paths_mut(&mut self) -> [&mut PathBuf; 2] {
        [&mut self.certificate, &mut self.key]
    }
}

/// The certificate that we show: `{certificate: …, key: …}`, or `workload_api` for our own SVID.
#[derive(Debug, Clone, PartialEq)]
pub enum Shown {
    Files(Tls),
    WorkloadApi,
}

impl Shown {
    pub fn files(&self) -> Option<&Tls> {
        match self {
            Self::Files(files) => Some(files),
            Self::WorkloadApi => None,
        }
    }

    pub(super) fn paths_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        match self {
            Self::Files(files) => Some(files.paths_mut()),
            Self::WorkloadApi => None,
        }
        .into_iter()
        .flatten()
    }
}

const OWN: &str = "workload_api";

impl Serialize for Shown {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Files(files) => files.serialize(serializer),
            Self::WorkloadApi => serializer.serialize_str(OWN),
        }
    }
}

impl<'de> Deserialize<'de> for Shown {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Shown;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`certificate` and `key`, or `workload_api`")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Shown, E> {
                match text {
                    OWN => Ok(Shown::WorkloadApi),
                    other => Err(E::custom(format!(
                        "`{other}` is no certificate to show; write `workload_api`, or `certificate` and `key`"
                    ))),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Shown, A::Error> {
                Tls::deserialize(MapAccessDeserializer::new(map)).map(Shown::Files).map_err(A::Error::custom)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for Shown {
    fn schema_name() -> Cow<'static, str> {
        "Shown".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let files = generator.subschema_for::<Tls>();
        json_schema!({"anyOf": [files, {"type": "string", "const": OWN}]})
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_false(value: &bool) -> bool {
    !*value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trust(text: &str) -> Result<Trust, String> {
        serde_saphyr::from_str::<Trust>(text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_source_is_one_thing_or_the_other_and_reads_back_the_same() {
        for (text, expected) in [
            ("{}", Ok(())),
            ("domains: {a.test: {bundle: a.pem}, b.test: {workload_api: true, backdate: 10s}}", Ok(())),
            ("workload_api: unix:///run/spire/api.sock\nmax_stale: 5m\non_stale: keep\nself: {workload_api: true}", Ok(())),
            ("workload_api: tcp://127.0.0.1:8081\nself: {certificate: c, key: k}", Ok(())),
            ("domains: {a.test: {}}", Err("needs a `bundle`")),
            ("domains: {a.test: {workload_api: false}}", Err("needs a `bundle`")),
            ("domains: {a.test: {bundle: a, workload_api: true}}", Err("not both")),
            ("domains: {a.test: {bundle: a, backdate: 0s}}", Err("above zero")),
            ("domains: {a/b: {bundle: a}}", Err("trust domain")),
            ("self: {certificate: c}", Err("`certificate` and `key`")),
            ("self: {workload_api: true, key: k}", Err("remove `certificate`")),
            ("self: {}", Err("needs `workload_api: true`")),
            ("on_stale: shrug", Err("shrug")),
            ("workload_api: /run/api.sock", Err("unix:///")),
            ("workload_api: tcp://10.0.0.1:8081", Err("in the clear")),
        ] {
            match (trust(text), expected) {
                (Ok(read), Ok(())) => assert_eq!(trust(&serde_saphyr::to_string(&read).unwrap()), Ok(read), "{text}"),
                (Err(error), Err(expected)) => assert!(error.contains(expected), "{text}: {error}"),
                (read, expected) => panic!("{text}: {read:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn what_we_show_is_read_in_both_forms() {
        let shown = |text: &str| serde_saphyr::from_str::<Shown>(text).map_err(|error| error.to_string());
        assert_eq!(shown("workload_api"), Ok(Shown::WorkloadApi));
        let files = Shown::Files(Tls { certificate: "c".into(), key: "k".into() });
        assert_eq!(shown("{certificate: c, key: k}"), Ok(files));
        for (text, expected) in [("files", "`files` is no"), ("{certificate: c}", "key"), ("{certificate: c, key: k, x: 1}", "x")]
        {
            assert!(shown(text).unwrap_err().contains(expected), "{text}");
        }
    }
}
