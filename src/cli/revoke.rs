//! `doorward revoke`: makes an end of what is no longer good.

use clap::ArgGroup;
use prost_types::Timestamp;
use tonic::Status;
use uuid::Uuid;

use super::{
    Exit, Output, complain,
    control::{self, inert, print_json, time},
    mention, print,
};
use crate::{
    clock,
    config::Span,
    control::proto::{
        timestamp, to_json,
        v1::{Receipt, RevokeRequest, RevokeResponse, revocation_service_client::RevocationServiceClient},
    },
    revocation::{Selector, SelectorError},
};

/// How a command tells an instant.
const INSTANT: &str = "%F %H:%M:%S";

#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("what").required(true)), after_help = "\
A revocation counts before anything that a policy says, from the moment that this command is
answered until it expires. With `--issued-before` it lets be what was issued after an instant: a
certificate by its notBefore and the `backdate` of its trust domain (10 s), a token by its `iat`.

Examples:
  doorward revoke --spiffe-id spiffe://example.org/ns/shop/sa/agent --reason 'case 4711'
  doorward revoke --spiffe-id spiffe://example.org/ns/shop/sa/agent --issued-before now --reason 'key leaked'
  doorward revoke --prefix spiffe://example.org/ns/shop --reason 'case 4711' --expires 2h --yes --wait
  doorward revoke --jti 4f1c --issuer https://idp.example --reason 'token in a log'
  doorward revoke --owner kim@example.org --reason 'has left' --expires 365d --output json

Exit codes: 0 revoked, 1 failed, 2 not allowed to revoke, 3 invalid, or `--yes` is missing")]
pub(super) struct Args {
    /// A workload
    #[arg(long, value_name = "ID", group = "what")]
    spiffe_id: Option<String>,
    /// All workloads from here down, by whole segments of the path; needs `--yes`
    #[arg(long, value_name = "ID", group = "what")]
    prefix: Option<String>,
    /// All workloads of a trust domain; needs `--yes`
    #[arg(long, value_name = "NAME", group = "what")]
    trust_domain: Option<String>,
    /// A certificate, by its SHA-256 in hex
    #[arg(long, value_name = "SHA256", group = "what")]
    certificate: Option<String>,
    /// A certificate, by its serial number in hex, with `--issuer`
    #[arg(long, value_name = "NUMBER", group = "what", requires = "issuer")]
    serial: Option<String>,
    /// A token, by its id, with `--issuer` (`''` where it names none)
    #[arg(long, value_name = "JTI", group = "what", requires = "issuer")]
    jti: Option<String>,
    /// A token or an API key, by the fingerprint in the record of a decision
    #[arg(long, value_name = "SHA256", group = "what")]
    fingerprint: Option<String>,
    /// A session
    #[arg(long, value_name = "ID", group = "what")]
    session: Option<String>,
    /// A task
    #[arg(long, value_name = "ID", group = "what")]
    task: Option<String>,
    /// A grant
    #[arg(long, value_name = "ID", group = "what")]
    grant: Option<String>,
    /// All workloads, and all API keys, of an owner
    #[arg(long, value_name = "NAME", group = "what")]
    owner: Option<String>,
    /// Who issued the certificate (as `input.peer.x509.issuer` shows it) or the token
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,
    /// Only what was issued before: `now`, or like `2027-01-31T00:00:00Z`
    #[arg(long, value_name = "TIME", value_parser = instant)]
    issued_before: Option<Timestamp>,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// How long it counts
    #[arg(long, value_name = "TIME", default_value = "30d")]
    expires: Span,
    /// Go on although it falls on many
    #[arg(long)]
    yes: bool,
    /// Wait for the receipt: who enforces it since when
    #[arg(long)]
    wait: bool,
    /// A name for this request: however often it is sent, it is carried out once
    #[arg(long, value_name = "NAME")]
    request_id: Option<String>,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(flatten)]
    control: control::Args,
}

pub(super) fn run(args: &Args) -> Exit {
    let selector = match args.selector() {
        Some(Ok(selector)) => selector,
        Some(Err(error)) => {
            complain(error);
            return Exit::Invalid;
        }
        None => {
            complain("say what to revoke, and `--issuer` with `--serial` and `--jti` only");
            return Exit::Invalid;
        }
    };
    args.control.run(async |channel| revoke(args, &selector, channel).await)
}

impl Args {
    fn selector(&self) -> Option<Result<Selector, SelectorError>> {
        let plain = |text: &Option<String>, make: fn(&str) -> Result<Selector, SelectorError>| text.as_deref().map(make);
        match (&self.issuer, &self.serial, &self.jti) {
            (Some(issuer), Some(serial), _) => return Some(Selector::serial(issuer, serial)),
            (Some(issuer), _, Some(jti)) => return Some(Selector::jti(issuer, jti)),
            (Some(_), None, None) => return None,
            (None, ..) => {}
        }
        plain(&self.spiffe_id, Selector::spiffe_id)
            .or_else(|| plain(&self.prefix, Selector::prefix))
            .or_else(|| plain(&self.trust_domain, Selector::trust_domain))
            .or_else(|| plain(&self.certificate, Selector::certificate))
            .or_else(|| plain(&self.fingerprint, Selector::fingerprint))
            .or_else(|| plain(&self.session, Selector::session))
            .or_else(|| plain(&self.task, Selector::task))
            .or_else(|| plain(&self.grant, Selector::grant))
            .or_else(|| plain(&self.owner, Selector::owner))
    }
}

async fn revoke(args: &Args, selector: &Selector, channel: control::Api) -> Result<Exit, Status> {
    let request = RevokeRequest {
        request_id: args.request_id.clone().unwrap_or_else(|| Uuid::now_v7().to_string()),
        selector: Some(selector.clone().into()),
        issued_before: args.issued_before,
        reason: args.reason.clone(),
        lifetime: prost_types::Duration::try_from(args.expires.duration()).ok(),
        confirm: args.yes,
    };
    let answer = RevocationServiceClient::new(channel).revoke(request).await?.into_inner();
    if answer.volatile {
        mention("the next restart forgets it (`state.memory.volatile`)");
    }
    Ok(match args.output {
        Output::Json => print_json(to_json(&answer)),
        Output::Table => print(table(args, selector, &answer)),
    })
}

fn table(args: &Args, selector: &Selector, answer: &RevokeResponse) -> String {
    let RevokeResponse { revocation, receipt, repeated, volatile: _, principals, streams } = answer;
    let revocation = revocation.clone().unwrap_or_default();
    let again = if *repeated { "had revoked" } else { "revoked" };
    let floor = revocation.issued_before.as_ref().map(|at| format!(", issued before {} UTC", time(Some(at), INSTANT)));
    let mut text = format!("{again} {}{}", inert(&selector.to_string()), floor.unwrap_or_default());
    text.push_str(&format!("\n{:<10}{}", "id", revocation.id));
    text.push_str(&format!("\n{:<10}{} UTC", "until", time(revocation.expires_at.as_ref(), INSTANT)));
    if selector.is_broad() {
        text.push_str(&format!("\n{:<10}{principals} principals with a session now", "falls on"));
    }
    if *streams > 0 {
        text.push_str(&format!("\n{:<10}{streams} live streams", "ended"));
    }
    if let (true, Some(Receipt { log, rev, applied })) = (args.wait, receipt) {
        text.push_str(&format!("\n{:<10}{rev} of log {log}", "rev"));
        for applied in applied {
            let at = time(applied.at.as_ref(), "%F %H:%M:%S%.6f");
            text.push_str(&format!("\n{:<10}{at} UTC by instance {}", "applied", applied.instance));
        }
    }
    text
}

fn instant(text: &str) -> Result<Timestamp, String> {
    if text == "now" {
        return timestamp(clock::now()).ok_or_else(|| "the clock is beyond all time".to_owned());
    }
    text.parse().map_err(|_| format!("`{text}` is no time like `2027-01-31T00:00:00Z`; `now` is one too"))
}
