//! What is measured: four policies, and the first of them with more or fewer credentials; their Rego, and the data or rules that are too many to write by hand.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::Context;
use serde_json::{Map, Value, json};

use crate::traffic::CALLER;

/// A policy to measure, by the name it has in the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Policy {
    /// Ten rules on caller, method and path.
    #[value(name = "rbac10")]
    Rbac10,
    /// One rule, and a table of 1,000 workloads in the data.
    #[value(name = "lookup1000")]
    Lookup1000,
    /// Fifty rules of one path glob each.
    #[value(name = "glob50")]
    Glob50,
    /// The same as regular expressions.
    #[value(name = "regex50")]
    Regex50,
    /// The ten rules, the caller believed to be whom Envoy names; the token in the call is not looked at.
    #[value(name = "rbac10-named")]
    Named,
    /// The same calls: the caller proved by its certificate, the token verified, both of them before.
    #[value(name = "rbac10-token")]
    Token,
    /// The same with a token in each call that was not seen before.
    #[value(name = "rbac10-new-tokens")]
    NewTokens,
}

impl Policy {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Rbac10 => "rbac10",
            Self::Lookup1000 => "lookup1000",
            Self::Glob50 => "glob50",
            Self::Regex50 => "regex50",
            Self::Named => "rbac10-named",
            Self::Token => "rbac10-token",
            Self::NewTokens => "rbac10-new-tokens",
        }
    }

    /// Writes the policy and its data into `folder`.
    pub(crate) fn write(self, folder: &Path) -> anyhow::Result<()> {
        let rego = match self {
            Self::Rbac10 | Self::Named | Self::Token | Self::NewTokens => include_str!("../policies/rbac10.rego").to_owned(),
            Self::Lookup1000 => include_str!("../policies/lookup1000.rego").to_owned(),
            Self::Glob50 => globs(),
            Self::Regex50 => regexes(),
        };
        fs::create_dir_all(folder).with_context(|| format!("make `{}`", folder.display()))?;
        fs::write(folder.join("policy.rego"), rego).context("write the policy")?;
        if self == Self::Lookup1000 {
            fs::write(folder.join("data.json"), workloads().to_string()).context("write the data")?;
        }
        Ok(())
    }
}

/// 1,000 workloads; the caller of the traffic is one of them, and no other may do what it does.
fn workloads() -> Value {
    let mut table: Map<String, Value> = (0..999)
        .map(|number| {
            let id = format!("spiffe://bench.example/ns/team-{:02}/sa/service-{number:03}", number % 40);
            let entry = json!({
                "owner": format!("team-{:02}", number % 40),
                "methods": ["GET", "POST"],
                "prefixes": [format!("/api/v1/area-{number}/"), format!("/api/v2/area-{number}/")],
            });
            (id, entry)
        })
        .collect();
    let entry = json!({"owner": "shop", "methods": ["GET", "POST"], "prefixes": ["/api/v1/payments/", "/api/v1/orders/"]});
    table.insert(CALLER.to_owned(), entry);
    json!({ "workloads": table })
}

/// Fifty globs; the path of the traffic matches the 25th.
fn globs() -> String {
    let mut rego = "package envoy.authz\n\nimport rego.v1\n\ndefault allow := false\n".to_owned();
    for number in 1..=50 {
        let pattern = match number {
            25 => "/api/v1/orders/*/lines/*".to_owned(),
            _ if number % 2 == 0 => format!("/api/v*/area-{number}/**"),
            _ => format!("/api/v1/area-{number}/*/items/*"),
        };
        // Writing into a string cannot fail.
        let _ = writeln!(rego, "\nallow if glob.match(\"{pattern}\", [\"/\"], input.attributes.request.http.path)");
    }
    rego
}

/// Fifty regular expressions; the path of the traffic matches the 25th.
fn regexes() -> String {
    let mut rego = "package envoy.authz\n\nimport rego.v1\n\ndefault allow := false\n".to_owned();
    for number in 1..=50 {
        let pattern = match number {
            25 => "^/api/v1/orders/[^/]+/lines/[^/]+$".to_owned(),
            _ if number % 2 == 0 => format!("^/api/v[0-9]+/area-{number}/.*$"),
            _ => format!("^/api/v1/area-{number}/[^/]+/items/[0-9a-f-]+$"),
        };
        // Writing into a string cannot fail.
        let _ = writeln!(rego, "\nallow if regex.match(`{pattern}`, input.attributes.request.http.path)");
    }
    rego
}
