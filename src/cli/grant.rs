//! `doorward grant`, `doorward task` and `doorward restore`: permission for a time, asked for, approved and ended; and the
//! end of a revocation before its time.

use clap::{Args as ClapArgs, Subcommand};
use tonic::Status;
use uuid::Uuid;

use super::{
    Exit, complain,
    control::{self, inert, or_dash, time},
    mention,
};
use crate::{
    config::Span,
    control::proto::v1::{
        ApproveGrantRequest, ApproveRestoreRequest, DenyGrantRequest, EndGrantRequest, EndTaskRequest, Grant, ListGrantsRequest,
        ListGrantsResponse, RequestGrantRequest, RestoreRequest, Scope, WatchGrantsRequest,
        grant_service_client::GrantServiceClient, revocation_service_client::RevocationServiceClient,
        task_service_client::TaskServiceClient,
    },
};

const INSTANT: &str = "%F %H:%M:%S";

pub(super) const GRANT_EXAMPLES: &str = "Examples:
  doorward grant request --subject spiffe://example.org/agent --action payments.refund --task T-1 --reason 'case 4711' \\
      --token-file alice.jwt
  doorward grant list --state open
  doorward grant approve 0199… --token-file bob.jwt
  doorward grant end 0199… --reason 'done'";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Ask for a grant, as a workload (`--svid`) for itself, or as a person (`--token-file`) for a workload
    Request(Request),
    /// Approve a request, as a person who has neither asked nor owns the workload
    Approve(One),
    /// Deny a request
    Deny(Closing),
    /// End a grant before its time, or take a request back
    End(Closing),
    /// Requests and grants, until a day after their end
    List(List),
}

#[derive(Debug, ClapArgs)]
pub(super) struct Request {
    /// SPIFFE ID of the workload; a workload that asks may leave it out
    #[arg(long, value_name = "SPIFFE_ID")]
    subject: Option<String>,
    /// Name of an action in the catalogue; several times for several
    #[arg(long = "action", value_name = "NAME")]
    actions: Vec<String>,
    /// `customer`, `customer/42` or `customer/4*`; several times for several, none for all
    #[arg(long = "resource", value_name = "RESOURCE")]
    resources: Vec<String>,
    /// Only what belongs to this tenant
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// Task that the grant is for, and ends with
    #[arg(long, value_name = "NAME")]
    task: Option<String>,
    /// How long it lasts from its last approval [default: an hour, or less where the catalogue says so]
    #[arg(long = "for", value_name = "TIME")]
    lifetime: Option<Span>,
    /// How often it may be used
    #[arg(long, value_name = "NUMBER")]
    uses: Option<u32>,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Number of a ticket
    #[arg(long, value_name = "TEXT")]
    ticket: Option<String>,
    /// `binding_token` of the denial that it is about
    #[arg(long, value_name = "TOKEN")]
    binding_token: Option<String>,
    /// A name for this request: however often it is sent, it is carried out once
    #[arg(long, value_name = "NAME")]
    request_id: Option<String>,
    /// Wait until it is approved or denied
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    common: control::Common,
}

#[derive(Debug, ClapArgs)]
pub(super) struct One {
    /// Id of the grant
    id: String,
    #[command(flatten)]
    common: control::Common,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Closing {
    /// Id of the grant
    id: String,
    /// Why
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    common: control::Common,
}

#[derive(Debug, ClapArgs)]
pub(super) struct List {
    /// Only those of this workload
    #[arg(long, value_name = "SPIFFE_ID")]
    subject: Option<String>,
    /// Only those that stand so: open, lapsed, live, used_up, expired, denied or ended
    #[arg(long, value_name = "STATE")]
    state: Option<String>,
    /// Only those of this task
    #[arg(long, value_name = "NAME")]
    task: Option<String>,
    /// Most to list
    #[arg(long, value_name = "NUMBER", default_value_t = 1000)]
    limit: usize,
    #[command(flatten)]
    common: control::Common,
}

pub(super) const TASK_EXAMPLES: &str = "Examples:
  doorward task end T-1 --reason 'ticket closed'
  doorward task end T-1 --subject spiffe://example.org/agent";

#[derive(Debug, Subcommand)]
pub(super) enum TaskCommand {
    /// End a task, with all that was granted for it
    End(EndTask),
}

#[derive(Debug, ClapArgs)]
pub(super) struct EndTask {
    /// Name of the task
    task: String,
    /// Only this workload's part in it
    #[arg(long, value_name = "SPIFFE_ID")]
    subject: Option<String>,
    /// Why
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    common: control::Common,
}

pub(super) const RESTORE_EXAMPLES: &str = "Examples:
  doorward restore request 0199… --reason 'false alarm' --token-file alice.jwt
  doorward restore approve 0199… --token-file bob.jwt";

#[derive(Debug, Subcommand)]
pub(super) enum RestoreCommand {
    /// Ask for it, by the id of the revocation
    Request(RestoreAsked),
    /// Approve it, by the id of the request, as somebody else
    Approve(One),
}

#[derive(Debug, ClapArgs)]
pub(super) struct RestoreAsked {
    /// Id of the revocation
    id: String,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    common: control::Common,
}

pub(super) fn run(command: &Command) -> Exit {
    match command {
        Command::Request(args) => args.common.control.run(async |api| request(args, api).await),
        Command::Approve(args) => args.common.control.run(async |api| {
            let answer = GrantServiceClient::new(api).approve(ApproveGrantRequest { id: args.id.clone() }).await?.into_inner();
            Ok(args.common.show(&answer, || told(answer.grant.as_ref())))
        }),
        Command::Deny(args) => args.common.control.run(async |api| {
            let request = DenyGrantRequest { id: args.id.clone(), reason: args.reason.clone() };
            let answer = GrantServiceClient::new(api).deny(request).await?.into_inner();
            Ok(args.common.show(&answer, || told(answer.grant.as_ref())))
        }),
        Command::End(args) => args.common.control.run(async |api| {
            let request = EndGrantRequest { id: args.id.clone(), reason: args.reason.clone() };
            let answer = GrantServiceClient::new(api).end(request).await?.into_inner();
            Ok(args.common.show(&answer, || format!("{}{}", told(answer.grant.as_ref()), streams(answer.streams))))
        }),
        Command::List(args) => args.common.control.run(async |api| list(args, api).await),
    }
}

pub(super) fn task(command: &TaskCommand) -> Exit {
    let TaskCommand::End(args) = command;
    args.common.control.run(async |api| {
        let request = EndTaskRequest {
            task: args.task.clone(),
            subject: args.subject.clone().unwrap_or_default(),
            reason: args.reason.clone(),
        };
        let answer = TaskServiceClient::new(api).end(request).await?.into_inner();
        Ok(args.common.show(&answer, || {
            let (grants, sessions) = (answer.grants.len(), answer.sessions);
            format!("ended task {}: {grants} grants, {sessions} sessions{}", inert(&args.task), streams(answer.streams))
        }))
    })
}

pub(super) fn restore(command: &RestoreCommand) -> Exit {
    match command {
        RestoreCommand::Request(args) => args.common.control.run(async |api| {
            let request = RestoreRequest { id: args.id.clone(), reason: args.reason.clone() };
            let answer = RevocationServiceClient::new(api).restore(request).await?.into_inner();
            Ok(args
                .common
                .show(&answer, || format!("asked; somebody else approves it: doorward restore approve {}", answer.restore)))
        }),
        RestoreCommand::Approve(args) => args.common.control.run(async |api| {
            let request = ApproveRestoreRequest { restore: args.id.clone() };
            let answer = RevocationServiceClient::new(api).approve_restore(request).await?.into_inner();
            let id = answer.revocation.as_ref().map(|revocation| revocation.id.clone()).unwrap_or_default();
            Ok(args.common.show(&answer, || format!("revocation {id} does not count any more")))
        }),
    }
}

async fn request(args: &Request, api: control::Api) -> Result<Exit, Status> {
    let lifetime = args.lifetime.and_then(|lifetime| prost_types::Duration::try_from(lifetime.duration()).ok());
    let scope = Scope {
        subject: args.subject.clone().unwrap_or_default(),
        actions: args.actions.clone(),
        resources: args.resources.clone(),
        tenant: args.tenant.clone().unwrap_or_default(),
        task: args.task.clone().unwrap_or_default(),
        lifetime,
        max_uses: args.uses.unwrap_or_default(),
    };
    if args.uses == Some(0) {
        complain("a grant has at least one use; leave `--uses` out for any number of them");
        return Ok(Exit::Invalid);
    }
    let subject = scope.subject.clone();
    let request = RequestGrantRequest {
        request_id: args.request_id.clone().unwrap_or_else(|| Uuid::now_v7().to_string()),
        scope: Some(scope),
        reason: args.reason.clone(),
        ticket: args.ticket.clone().unwrap_or_default(),
        binding_token: args.binding_token.clone().unwrap_or_default(),
    };
    let mut client = GrantServiceClient::new(api);
    let answer = client.request(request).await?.into_inner();
    if answer.volatile {
        mention("the next restart forgets it (`state.memory.volatile`)");
    }
    let id = answer.grant.as_ref().map(|grant| grant.id.clone()).unwrap_or_default();
    if !args.wait {
        return Ok(args.common.show(&answer, || told(answer.grant.as_ref())));
    }
    mention(format_args!("asked for grant {id}; waiting for its approval"));
    let mut events = client.watch(WatchGrantsRequest { subject }).await?.into_inner();
    while let Some(event) = events.message().await? {
        let Some(grant) = event.grant.filter(|grant| grant.id == id && grant.state != "open") else { continue };
        let exit = args.common.show(&grant, || told(Some(&grant)));
        return Ok(if grant.state == "live" { exit } else { Exit::Denied });
    }
    Err(Status::unavailable("the doorward stopped; list the grants to see what became of it"))
}

async fn list(args: &List, api: control::Api) -> Result<Exit, Status> {
    let mut client = GrantServiceClient::new(api);
    let pages = control::pages(args.limit, async |page_size, page_token| {
        let request = ListGrantsRequest {
            page_size,
            page_token,
            subject: args.subject.clone().unwrap_or_default(),
            state: args.state.clone().unwrap_or_default(),
            task: args.task.clone().unwrap_or_default(),
        };
        let page = client.list(request).await?.into_inner();
        Ok((page.grants, page.next_page_token))
    });
    let (grants, next_page_token) = pages.await?;
    let listed = ListGrantsResponse { grants, next_page_token };
    Ok(args.common.show(&listed, || table(&listed.grants)))
}

fn table(grants: &[Grant]) -> String {
    let mut text = format!("{:<36}  {:<8}  {:<19}  {:<5}  {:<12}  {}", "ID", "STATE", "UNTIL (UTC)", "USED", "TASK", "WHAT FOR");
    for grant in grants {
        let scope = grant.scope.clone().unwrap_or_default();
        let used = match scope.max_uses {
            0 => "-".to_owned(),
            most => format!("{}/{most}", grant.used),
        };
        text.push_str(&format!(
            "\n{:<36}  {:<8}  {:<19}  {:<5}  {:<12}  {} for {}",
            grant.id,
            grant.state,
            time(grant.approved_until.as_ref(), INSTANT),
            used,
            or_dash(&scope.task),
            inert(&scope.actions.join(", ")),
            inert(&scope.subject),
        ));
    }
    text
}

/// How a grant stands, with what its approver should know: what we know apart from what is claimed.
fn told(grant: Option<&Grant>) -> String {
    let Some(grant) = grant else { return String::new() };
    let scope = grant.scope.clone().unwrap_or_default();
    let (known, claimed) = (grant.known.clone().unwrap_or_default(), grant.claimed.clone().unwrap_or_default());
    let mut lines = vec![("grant", grant.id.clone()), ("state", grant.state.clone())];
    lines.push(("for", scope.subject));
    lines.push(("actions", scope.actions.join(", ")));
    let optional = [("resources", scope.resources.join(", ")), ("tenant", scope.tenant), ("task", scope.task)];
    lines.extend(optional.into_iter().filter(|(_, text)| !text.is_empty()));
    if grant.approved_until.is_some() {
        lines.push(("until", format!("{} UTC", time(grant.approved_until.as_ref(), INSTANT))));
    }
    lines.push(("approvals", format!("{} of {}", grant.approvals.len(), grant.approvals_needed)));
    lines.extend(grant.approvals.iter().map(|approval| ("approved by", approval.by.clone())));
    lines.push(("asked by", known.requested_by));
    lines.push(("owner", known.owner));
    if let Some(denial) = known.denial {
        lines.push(("denial", format!("{} of {} {}", denial.decision, denial.action, denial.resource)));
    }
    lines.push(("claims", claimed.reason));
    if !grant.closed_by.is_empty() {
        lines.push(("closed by", format!("{}: {}", grant.closed_by, grant.closed_reason)));
    }
    let lines: Vec<_> = lines.iter().map(|(name, text)| format!("{name:<12}{}", or_dash(text))).collect();
    lines.join("\n")
}

fn streams(count: u64) -> String {
    if count == 0 { String::new() } else { format!(", {count} live streams") }
}
