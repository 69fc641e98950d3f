//! The members that say what is known around the request: action, session, grants, workload and risk.

use super::{Sink, names::NAMES};
use crate::{
    action::{Action, Entry, Mcp, Resource},
    clock::Now,
    context::Context,
    grant::{Grant, Scope},
    request::Request,
    risk::Risk,
    session::{Part, View},
    state::Epoch,
    workload::{Allow, Schedule, Workload},
};

pub(super) fn action(action: &Action, context: &Context, request: &Request, sink: &mut impl Sink) {
    sink.text(&NAMES.protocol, action.protocol.as_str());
    sink.flag(&NAMES.known, action.is_known());
    sink.text(&NAMES.class, action.class().as_str());
    sink.text(&NAMES.tier, context.tier.as_str());
    sink.flag(&NAMES.body_complete, action.body_complete);
    if let Some(error) = action.error {
        sink.text(&NAMES.error, error);
    }
    if let Some(entry) = &action.entry {
        sink.constant(&entry.shown, |sink| entry_members(entry, sink));
    }
    if let Some(resource) = &action.resource {
        sink.object(&NAMES.resource, |sink| resource_members(resource, sink));
    }
    if !action.params.is_empty() {
        sink.map(&NAMES.params, action.params.iter().map(|(name, value)| (&**name, value.as_str())));
    }
    if let Some(digest) = &action.args_digest {
        sink.text(&NAMES.args_digest, digest);
    }
    if let Some(mcp) = &action.mcp {
        sink.object(&NAMES.mcp, |sink| mcp_members(mcp, sink));
    }
    let called = request.http.as_ref().filter(|http| http.is_grpc()).and_then(|http| match http.url.segments.as_slice() {
        [service, method] => Some((service, method)),
        _ => None,
    });
    if let Some((service, method)) = called {
        sink.object(&NAMES.grpc, |sink| {
            sink.text(&NAMES.service, service);
            sink.text(&NAMES.method, method);
        });
    }
}

fn entry_members(entry: &Entry, sink: &mut impl Sink) {
    sink.text(&NAMES.name, &entry.name);
    sink.text(&NAMES.sensitivity, entry.sensitivity.as_str());
    sink.flag(&NAMES.public, entry.is_public);
    sink.texts(&NAMES.adds, entry.adds.iter().map(|adds| &*adds.label));
    sink.texts(&NAMES.requires, entry.requires.iter().map(|label| &**label));
    sink.texts(&NAMES.forbid_after, entry.forbid_after.iter().map(|label| &**label));
    sink.text(&NAMES.grant, entry.grant.as_str());
}

fn resource_members(resource: &Resource, sink: &mut impl Sink) {
    sink.text(&NAMES.r#type, &resource.kind);
    if let Some(id) = &resource.id {
        sink.text(&NAMES.id, id);
    }
    if let Some(tenant) = &resource.tenant {
        sink.text(&NAMES.tenant, tenant);
    }
    sink.made(&NAMES.hash, || format!("{:016x}", resource.hash));
}

fn mcp_members(mcp: &Mcp, sink: &mut impl Sink) {
    sink.text(&NAMES.method, &mcp.method);
    let some = [(&NAMES.version, &mcp.version), (&NAMES.tool, &mcp.tool), (&NAMES.uri, &mcp.uri)];
    for (name, value) in some.into_iter().chain([(&NAMES.request_id, &mcp.request_id)]) {
        if let Some(value) = value {
            sink.text(name, value);
        }
    }
}

pub(super) fn session(view: &View, sink: &mut impl Sink) {
    sink.text(&NAMES.id, &view.id);
    sink.text(&NAMES.source, view.source);
    sink.number(&NAMES.age_s, i64::try_from(view.age_s).unwrap_or(i64::MAX));
    sink.number(&NAMES.seq, i64::try_from(view.seq).unwrap_or(i64::MAX));
    sink.flag(&NAMES.complete, view.complete);
    part(&view.session, sink);
    sink.object(&NAMES.principal, |sink| part(&view.principal, sink));
}

/// `labels`, `counts` and `path`, of a session or of its principal.
fn part(part: &Part, sink: &mut impl Sink) {
    sink.texts(&NAMES.labels, part.labels.iter().map(|label| &**label));
    sink.each(&NAMES.counts, part.counts.iter().map(|(action, count)| (&**action, count)), |count, sink| {
        sink.number(&NAMES.n, i64::try_from(count.n).unwrap_or(i64::MAX));
        sink.number(&NAMES.first_ns, count.first.nanoseconds());
        sink.number(&NAMES.last_ns, count.last.nanoseconds());
    });
    sink.objects(&NAMES.path, &part.path, |past, sink| {
        sink.number(&NAMES.n, i64::try_from(past.n).unwrap_or(i64::MAX));
        sink.text(&NAMES.action, &past.action);
        sink.text(&NAMES.class, past.class.as_str());
        sink.made(&NAMES.resource_hash, || format!("{:016x}", past.resource_hash));
        sink.number(&NAMES.at_ns, past.at.nanoseconds());
        if let Some(decision) = past.decision {
            sink.text(&NAMES.decision, decision.as_str());
        }
    });
}

pub(super) fn grant(grant: &Grant, context: &Context, sink: &mut impl Sink) {
    let Scope { actions, resources, tenant, task, .. } = &grant.scope;
    sink.made(&NAMES.id, || grant.id.to_string());
    sink.texts(&NAMES.actions, actions.iter().map(|action| &**action));
    sink.texts(&NAMES.resources, resources.iter().map(|resource| &**resource));
    for (name, text) in [(&NAMES.tenant, tenant), (&NAMES.task, task)] {
        if let Some(text) = text {
            sink.text(name, text);
        }
    }
    if let Some(until) = grant.until() {
        sink.made(&NAMES.expires_at, || until.rfc3339());
    }
    if let Some(left) = grant.uses_left() {
        sink.number(&NAMES.uses_left, i64::from(left));
    }
    sink.made(&NAMES.requested_by, || grant.requested_by.to_string());
    sink.texts(&NAMES.approved_by, grant.approvals.iter().map(|approval| approval.by.name.as_str()));
    sink.flag(&NAMES.covers, grant.covers(&context.action, context.task.as_deref()));
}

pub(super) fn workload(entry: Option<&Workload>, sink: &mut impl Sink) {
    sink.flag(&NAMES.registered, entry.is_some());
    if let Some(entry) = entry {
        sink.constant(&entry.shown, |sink| workload_members(entry, sink));
    }
}

fn workload_members(entry: &Workload, sink: &mut impl Sink) {
    let texts = [
        (&NAMES.owner, &entry.owner),
        (&NAMES.team, &entry.team),
        (&NAMES.purpose, &entry.purpose),
        (&NAMES.escalation, &entry.escalation),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            sink.text(name, text);
        }
    }
    sink.text(&NAMES.state, &entry.state);
    sink.flag(&NAMES.third_party, entry.third_party);
    if let Some(environments) = &entry.environments {
        sink.texts(&NAMES.environments, environments.iter().map(|text| &**text));
    }
    if let Some(until) = entry.expires_at {
        sink.made(&NAMES.expires_at, || Now::from_seconds(u64::try_from(until).unwrap_or_default()).rfc3339());
    }
    let seconds = [
        (&NAMES.max_credential_lifetime_s, entry.max_credential_lifetime_s),
        (&NAMES.max_credential_age_s, entry.max_credential_age_s),
    ];
    for (name, seconds) in seconds {
        if let Some(seconds) = seconds {
            sink.number(name, seconds);
        }
    }
    if let Some(schedule) = &entry.schedule {
        sink.object(&NAMES.schedule, |sink| schedule_members(schedule, sink));
    }
    if !entry.limits.is_empty() {
        sink.each(&NAMES.limits, entry.limits.iter().map(|(action, limit)| (&**action, limit)), |limit, sink| {
            sink.number(&NAMES.per_day, i64::try_from(*limit).unwrap_or(i64::MAX));
        });
    }
    sink.objects(&NAMES.allows, &entry.allows, allow);
}

/// This process writes the control log itself, so that what it knows has no age.
pub(super) fn state(epoch: Epoch, sink: &mut impl Sink) {
    sink.object(&NAMES.epoch, |sink| {
        sink.made(&NAMES.log, || epoch.log.to_string());
        sink.number(&NAMES.rev, i64::try_from(epoch.rev).unwrap_or(i64::MAX));
    });
    sink.number(&NAMES.age_s, 0);
}

fn schedule_members(schedule: &Schedule, sink: &mut impl Sink) {
    sink.text(&NAMES.from, &schedule.from);
    sink.text(&NAMES.to, &schedule.to);
    sink.text(&NAMES.zone, &schedule.zone);
    if let Some(days) = &schedule.days {
        sink.texts(&NAMES.days, days.iter().map(|day| &**day));
    }
}

fn allow<S: Sink>(allow: &Allow, sink: &mut S) {
    sink.texts(&NAMES.actions, allow.actions.iter().map(|text| &**text));
    if let Some(classes) = &allow.classes {
        sink.texts(&NAMES.classes, classes.iter().map(|class| class.as_str()));
    }
    let lists =
        [(&NAMES.resources, &allow.resources), (&NAMES.tenants, &allow.tenants), (&NAMES.environments, &allow.environments)];
    for (name, list) in lists {
        if let Some(list) = list {
            sink.texts(name, list.iter().map(|text| &**text));
        }
    }
}

pub(super) fn risk_members(risk: &Risk, sink: &mut impl Sink) {
    sink.number(&NAMES.score, i64::from(risk.score));
    sink.text(&NAMES.level, risk.level.as_str());
    sink.texts(&NAMES.reasons, risk.reasons.iter().map(String::as_str));
}
