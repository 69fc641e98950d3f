//! `doorward inventory`: the machine identities that were seen and that the registry has, and what is wrong with them.

use comfy_table::{Table, presets::NOTHING};
use prost_types::Duration;
use tonic::Status;

use super::{
    Exit,
    control::{self, inert, or_dash, time},
};
use crate::{
    config::Span,
    control::proto::v1::{
        ActionUse, CredentialUse, Identity, ListIdentitiesRequest, ListIdentitiesResponse, OverdueUse, ShowIdentityRequest,
        ShowIdentityResponse, Sighting, Workload, inventory_service_client::InventoryServiceClient,
    },
};

/// Names that a table shows of a list.
const NAMES: usize = 20;

#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Seen are those whose credentials were verified, since the start or for as long as `inventory.file`
remembers. What the registry has (`data.doorward.workloads`) stands beside it, also where nobody
was seen. Of several conditions each has to hold.

Examples:
  doorward inventory                        every identity, and what is wrong with it
  doorward inventory --unowned              nobody is known to answer for it
  doorward inventory --stale=7d             not seen for a week, or never
  doorward inventory --third-party --overdue --output json | jq -r .identities[].principal
  doorward inventory show spiffe://example.org/ns/shop/sa/agent

Exit codes: 0 done, 1 failed, 2 not allowed to ask, 3 invalid"
)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: List,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// One identity: what it did, what it came with, and what it may do and never did
    Show(Show),
}

#[derive(Debug, clap::Args)]
struct List {
    /// Only those that nobody is known to own
    #[arg(long)]
    unowned: bool,
    /// Only those not seen for so long, or registered and never seen
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "30d")]
    stale: Option<Span>,
    /// Only those that the registry calls somebody else's
    #[arg(long)]
    third_party: bool,
    /// Only those used after they should have been
    #[arg(long)]
    overdue: bool,
    /// Only those that were seen and that the registry has no entry of
    #[arg(long)]
    unregistered: bool,
    /// Only those whose name begins so
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    /// Most identities to list
    #[arg(long, value_name = "NUMBER", default_value_t = 1000)]
    limit: usize,
    #[command(flatten)]
    common: control::Common,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  doorward inventory show spiffe://example.org/ns/shop/sa/agent
  doorward inventory show 'https://issuer.example#robot' --output json | jq .unused_actions

Exit codes: 0 done, 1 failed, or it is not known, 2 not allowed to ask, 3 invalid")]
struct Show {
    /// A SPIFFE ID, issuer and subject of a token (`https://issuer#subject`), or a pattern of the registry
    #[arg(value_name = "PRINCIPAL")]
    principal: String,
    #[command(flatten)]
    common: control::Common,
}

pub(super) fn run(args: &Args) -> Exit {
    match &args.command {
        None => args.list.common.control.run(async |channel| list(&args.list, channel).await),
        Some(Command::Show(args)) => args.common.control.run(async |channel| show(args, channel).await),
    }
}

async fn list(args: &List, channel: control::Api) -> Result<Exit, Status> {
    let mut client = InventoryServiceClient::new(channel).max_decoding_message_size(usize::MAX);
    let pages = control::pages(args.limit, async |page_size, page_token| {
        let request = ListIdentitiesRequest {
            page_size,
            page_token,
            prefix: args.prefix.clone().unwrap_or_default(),
            unowned: args.unowned,
            stale: args.stale.is_some(),
            stale_after: args.stale.and_then(|stale| Duration::try_from(stale.duration()).ok()),
            third_party: args.third_party,
            overdue: args.overdue,
            unregistered: args.unregistered,
        };
        let page = client.list(request).await?.into_inner();
        Ok((page.identities, page.next_page_token))
    });
    let (identities, _) = pages.await?;
    let listed = ListIdentitiesResponse { identities, next_page_token: String::new() };
    Ok(args.common.show(&listed, || table(&listed.identities)))
}

async fn show(args: &Show, channel: control::Api) -> Result<Exit, Status> {
    let mut client = InventoryServiceClient::new(channel).max_decoding_message_size(usize::MAX);
    let request = ShowIdentityRequest { principal: args.principal.clone(), stale_after: None };
    let shown = client.show(request).await?.into_inner();
    Ok(args.common.show(&shown, || whole(&shown)))
}

fn table(identities: &[Identity]) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header([
        "principal",
        "owner",
        "last seen (UTC)",
        "allowed",
        "denied",
        "used",
        "unused",
        "findings",
    ]);
    for identity in identities {
        let Identity { principal, findings, workload, seen, unused_actions } = identity;
        let (owner, seen) = (workload.as_ref().map(|workload| &*workload.owner), seen.clone().unwrap_or_default());
        table.add_row([
            inert(principal).into_owned(),
            or_dash(owner.unwrap_or_default()).into_owned(),
            time(seen.last_at.as_ref(), "%F %H:%M:%S"),
            seen.allowed.to_string(),
            seen.denied.to_string(),
            seen.actions.to_string(),
            unused_actions.to_string(),
            or_dash(&findings.join(", ")).into_owned(),
        ]);
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

fn whole(shown: &ShowIdentityResponse) -> String {
    let ShowIdentityResponse { identity, actions, other_actions, unused_actions } = shown;
    let Identity { principal, findings, workload, seen, .. } = identity.clone().unwrap_or_default();
    let mut text = inert(&principal).into_owned();
    let mut add = |name: &str, value: &str| text.push_str(&format!("\n{name:<12}{}", or_dash(value)));
    add("findings", &findings.join(", "));
    match &workload {
        None => add("registered", "no"),
        Some(workload) => {
            let Workload { entry, owner, team, purpose, third_party, state, expires_at, escalation, .. } = workload;
            let party = if *third_party { ", a third party" } else { "" };
            let until = expires_at.as_ref().map(|at| format!(", until {} UTC", time(Some(at), "%F %H:%M")));
            add("registered", &format!("by {entry}: {state}{}{party}", until.unwrap_or_default()));
            for (name, value) in [("owner", owner), ("team", team), ("purpose", purpose), ("escalation", escalation)] {
                add(name, value);
            }
        }
    }
    match &seen {
        None => add("seen", "never"),
        Some(Sighting { first_at, last_at, allowed, denied, decision_id, credentials, overdue, .. }) => {
            add("seen", &format!("{} to {} UTC", instant(first_at.as_ref()), instant(last_at.as_ref())));
            add("calls", &format!("{allowed} allowed, {denied} denied, the latest {decision_id}"));
            add("came with", &credentials.iter().map(credential).collect::<Vec<_>>().join(", "));
            if let Some(OverdueUse { reasons, first_at, last_at, count }) = overdue {
                let (why, from, to) = (reasons.join(", "), instant(first_at.as_ref()), instant(last_at.as_ref()));
                add("overdue", &format!("{count} calls, {from} to {to} UTC: {why}"));
            }
        }
    }
    if !actions.is_empty() {
        text.push_str("\n\nactions:");
    }
    for ActionUse { action, count, first_at: _, last_at } in actions {
        text.push_str(&format!("\n  {count:>6} × {}, last {} UTC", inert(action), instant(last_at.as_ref())));
    }
    if *other_actions > 0 {
        text.push_str(&format!("\n  {other_actions:>6} × others"));
    }
    if !unused_actions.is_empty() {
        let named = unused_actions.iter().take(NAMES).map(|action| inert(action)).collect::<Vec<_>>().join(", ");
        let more = unused_actions.len().saturating_sub(NAMES);
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        text.push_str(&format!("\n\nmay do, and never did: {named}{more}"));
    }
    text
}

fn credential(credential: &CredentialUse) -> String {
    let CredentialUse { kind, longest_lifetime } = credential;
    let lifetime = longest_lifetime.and_then(|lifetime| std::time::Duration::try_from(lifetime).ok());
    match lifetime {
        Some(lifetime) => format!("{kind} of {} at most", humantime::format_duration(lifetime)),
        None => kind.clone(),
    }
}

fn instant(at: Option<&prost_types::Timestamp>) -> String {
    time(at, "%F %H:%M:%S")
}
