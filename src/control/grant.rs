//! Grants and tasks: asked for by workloads and people, approved by people, ended by either.

use std::{
    collections::{HashMap, HashSet},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::mpsc, task::spawn_blocking, time::sleep};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{
    Cut,
    guard::Guard,
    page,
    proto::{
        span, timestamp,
        v1::{
            self, ApproveGrantRequest, ApproveGrantResponse, DenyGrantRequest, DenyGrantResponse, EndGrantRequest,
            EndGrantResponse, EndTaskRequest, EndTaskResponse, ListGrantsRequest, ListGrantsResponse, RequestGrantRequest,
            RequestGrantResponse, WatchGrantsRequest, WatchGrantsResponse, grant_service_server::GrantService,
            task_service_server::TaskService,
        },
    },
    revocation::id_of,
};
use crate::{
    authorizer::ControlState,
    clock::{self, Now},
    grant::{Approving, Asked, Ceiling, Closed, Denied, Fate, Grant, GrantError, Scope, Standing},
    identity::author::Author,
    policy::{PolicySet, PolicyStore},
    session::{Key, Sessions, Source},
    state::StateError,
};

/// How often a watcher is told what has changed, and how much may wait for it.
const TELL: Duration = Duration::from_millis(250);
const FEED: usize = 64;
/// Watchers at a time, and those of one caller: each looks through all grants now and then, and asks the policy.
const WATCHERS: usize = 512;
const WATCHERS_OF_ONE: usize = 16;

#[derive(Clone)]
pub struct GrantApi {
    guard: Arc<Guard>,
    control: ControlState,
    policies: Arc<PolicyStore>,
    /// Where sessions end with their task.
    sessions: Option<Arc<Sessions>>,
    /// Ends the streams that rest on what is over.
    cut: Cut,
    watchers: Watchers,
    stop: CancellationToken,
}

impl GrantApi {
    pub fn new(
        guard: Arc<Guard>,
        control: ControlState,
        policies: Arc<PolicyStore>,
        sessions: Option<Arc<Sessions>>,
        cut: Cut,
        stop: CancellationToken,
    ) -> Self {
        Self { guard, control, policies, sessions, cut, watchers: Watchers::default(), stop }
    }

    /// Works where it may block.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&ControlState) -> Result<T, GrantError> + Send + 'static,
    ) -> Result<T, Status> {
        let control = self.control.clone();
        let worked = spawn_blocking(move || work(&control)).await;
        let broken = |_| Status::internal("the work broke off; list the grants to see what became of it");
        worked.map_err(broken)?.map_err(|error| refused(&error))
    }

    /// The policy set in force, whose documents say what is known.
    fn documents(&self) -> Result<Arc<PolicySet>, Status> {
        self.policies.current().ok_or_else(|| Status::unavailable("no policy is in force, so no action is known"))
    }

    /// As it stands by the time that grants are judged by.
    fn shown(&self, grant: &Grant) -> v1::Grant {
        shown(grant, self.control.grants.now(clock::now()))
    }

    /// A workload has to do with its own grants only.
    async fn find(&self, id: &str, author: &Author) -> Result<Arc<Grant>, Status> {
        let id = id_of(id)?;
        let grant = self.work(move |control| control.grants.find(id)).await?;
        match author {
            Author::Workload(own) if *own != *grant.subject => Err(refused(&GrantError::Unknown)),
            _ => Ok(grant),
        }
    }
}

/// Who owns a workload by the registry in force.
fn owner(policy: &PolicySet, subject: &str) -> Option<String> {
    let workload = policy.documents().registry.find(subject)?;
    workload.owner.as_deref().filter(|owner| !owner.is_empty()).map(str::to_owned)
}

/// What the catalogue permits for actions; none where it does not know one of them.
fn ceiling(policy: &PolicySet, actions: &[Arc<str>]) -> Option<Ceiling> {
    let catalogue = policy.documents().catalogue;
    let entries: Option<Vec<_>> = actions.iter().map(|action| catalogue.named(action).map(|entry| &**entry)).collect();
    Some(Ceiling::of(entries?.into_iter()))
}

#[tonic::async_trait]
impl GrantService for GrantApi {
    async fn request(&self, request: Request<RequestGrantRequest>) -> Result<Response<RequestGrantResponse>, Status> {
        let admitted = self.guard.admit(request).await?;
        let RequestGrantRequest { request_id, scope, reason, ticket, binding_token } = admitted.message.clone();
        let by = admitted.question.author();
        let mut scope = scope.unwrap_or_default();
        if let (Author::Workload(own), "") = (&by, scope.subject.as_str()) {
            scope.subject.clone_from(own);
        }
        let denied = match binding_token.as_str() {
            "" => None,
            token => Some(
                self.control
                    .request_tokens
                    .read(token, &scope.subject, clock::now())
                    .map_err(|error| Status::permission_denied(error.to_string()))?,
            ),
        };
        let asked = asked(request_id, scope, reason, ticket, by, denied)?;
        let policy = self.documents()?;
        let ceiling = ceiling(&policy, &asked.scope.actions).ok_or_else(|| {
            Status::invalid_argument("an action is none of the catalogue (`doorward eval` shows what a call is)")
        })?;
        let asked = Asked { owner: owner(&policy, &asked.subject), ..asked };
        let (grant, repeated) =
            self.work(move |control| control.grants.request(&control.journal, &asked, ceiling, clock::now())).await?;
        admitted.note(format!("request {} of {}", grant.id, grant.subject));
        let volatile = !self.control.journal.is_durable();
        Ok(Response::new(RequestGrantResponse { grant: Some(self.shown(&grant)), repeated, volatile }))
    }

    async fn approve(&self, request: Request<ApproveGrantRequest>) -> Result<Response<ApproveGrantResponse>, Status> {
        let admitted = self.guard.admit(request).await?;
        let by = self.guard.approver(&admitted.question)?.clone();
        let grant = self.find(&admitted.message.id, &admitted.question.author()).await?;
        let policy = self.documents()?;
        let (owner, ceiling) = (owner(&policy, &grant.subject), ceiling(&policy, &grant.scope.actions));
        let grant = self
            .work(move |control| {
                let approving = Approving { grant: grant.id, by: &by, owner: owner.as_deref(), ceiling };
                control.grants.approve(&control.journal, approving, clock::now())
            })
            .await?;
        let left = usize::try_from(grant.needed).unwrap_or(usize::MAX).saturating_sub(grant.approvals.len());
        admitted.note(match grant.fate {
            Fate::Open => format!("approved {}, {left} more needed", grant.id),
            _ => format!("granted {} to {}", grant.id, grant.subject),
        });
        Ok(Response::new(ApproveGrantResponse { grant: Some(self.shown(&grant)) }))
    }

    async fn deny(&self, request: Request<DenyGrantRequest>) -> Result<Response<DenyGrantResponse>, Status> {
        let admitted = self.guard.admit(request).await?;
        let DenyGrantRequest { id, reason } = admitted.message.clone();
        let by = admitted.question.author();
        if let Author::Workload(_) = by {
            return Err(Status::permission_denied("a workload denies nothing; it may take its request back (End)"));
        }
        let grant = self.find(&id, &by).await?;
        let closed = Closed { by, at: clock::now(), reason };
        let grant = self.work(move |control| control.grants.close(&control.journal, grant.id, &closed, true)).await?;
        admitted.note(format!("denied {} of {}", grant.id, grant.subject));
        Ok(Response::new(DenyGrantResponse { grant: Some(self.shown(&grant)) }))
    }

    async fn end(&self, request: Request<EndGrantRequest>) -> Result<Response<EndGrantResponse>, Status> {
        let admitted = self.guard.admit(request).await?;
        let EndGrantRequest { id, reason } = admitted.message.clone();
        let by = admitted.question.author();
        let grant = self.find(&id, &by).await?;
        let closed = Closed { by, at: clock::now(), reason };
        let cut = Arc::clone(&self.cut);
        let (grant, streams) = self
            .work(move |control| {
                let grant = control.grants.close(&control.journal, grant.id, &closed, false)?;
                Ok((grant, cut(clock::now())))
            })
            .await?;
        admitted.note(format!("ended {} of {}", grant.id, grant.subject));
        let streams = u64::try_from(streams).unwrap_or(u64::MAX);
        Ok(Response::new(EndGrantResponse { grant: Some(self.shown(&grant)), streams }))
    }

    async fn list(&self, request: Request<ListGrantsRequest>) -> Result<Response<ListGrantsResponse>, Status> {
        let admitted = self.guard.admit(request).await?;
        let ListGrantsRequest { page_size, page_token, mut subject, state, task } = admitted.message.clone();
        if let Author::Workload(own) = admitted.question.author() {
            subject = own;
        }
        let after = page::after(&page_token)?;
        let size = page::size(page_size)?;
        let states = Standing::ALL.map(Standing::as_str);
        if !state.is_empty() && !states.contains(&state.as_str()) {
            return Err(Status::invalid_argument(format!("`state` is one of {}", states.join(", "))));
        }
        let now = self.control.grants.now(clock::now());
        let wanted = move |grant: &Grant| {
            (subject.is_empty() || *grant.subject == *subject)
                && (state.is_empty() || grant.standing(now).as_str() == state)
                && (task.is_empty() || grant.scope.task.as_deref() == Some(&*task))
        };
        // One more tells whether there is another page.
        let mut found = self.work(move |control| Ok(control.grants.list(after, size + 1, wanted))).await?;
        let next_page_token = page::cut(&mut found, size, |last| last.rev.to_string());
        Ok(Response::new(ListGrantsResponse { grants: found.iter().map(|grant| self.shown(grant)).collect(), next_page_token }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchGrantsResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<WatchGrantsRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let admitted = self.guard.admit(request).await?;
        let subject = match admitted.question.author() {
            Author::Workload(own) => own,
            _ => admitted.message.subject.clone(),
        };
        let place = self.watchers.place(admitted.question.author().to_string());
        let place = place.ok_or_else(|| Status::resource_exhausted("enough watch already; list the grants instead"))?;
        let (told, events) = mpsc::channel(FEED);
        let (control, guard, question) = (self.control.clone(), Arc::clone(&self.guard), admitted.question);
        let follow = async move {
            let _place = place;
            let mut known: HashSet<(Uuid, &'static str, u32, usize)> = HashSet::new();
            loop {
                // Who may not watch any more is told nothing any more.
                if let Err(why) = guard.ask(&question).await {
                    let _ = told.send(Err(Status::permission_denied(why))).await;
                    return;
                }
                let now = control.grants.now(clock::now());
                let epoch = control.grants.current().epoch;
                let grants = control.grants.list(0, usize::MAX, |grant| subject.is_empty() || *grant.subject == *subject);
                let seen: HashSet<_> = grants.iter().map(|grant| mark(grant, now)).collect();
                for grant in grants.iter().filter(|grant| !known.contains(&mark(grant, now))) {
                    let event = WatchGrantsResponse { grant: Some(shown(grant, now)) };
                    if told.send(Ok(event)).await.is_err() {
                        return;
                    }
                }
                known = seen;
                // What ends by itself moves no epoch: look again now and then.
                for _ in 0..20 {
                    sleep(TELL).await;
                    if told.is_closed() || control.grants.current().epoch != epoch {
                        break;
                    }
                }
                if told.is_closed() {
                    return;
                }
            }
        };
        tokio::spawn(self.stop.clone().run_until_cancelled_owned(follow));
        Ok(Response::new(Box::pin(ReceiverStream::new(events))))
    }
}

/// Who watches, and how often.
#[derive(Clone, Default)]
struct Watchers(Arc<Mutex<HashMap<String, usize>>>);

/// A watcher's; free again when dropped.
struct Place(Watchers, String);

impl Watchers {
    fn place(&self, caller: String) -> Option<Place> {
        let mut watching = self.watching();
        let own = watching.get(&caller).copied().unwrap_or_default();
        if own >= WATCHERS_OF_ONE || watching.values().sum::<usize>() >= WATCHERS {
            return None;
        }
        watching.insert(caller.clone(), own + 1);
        drop(watching);
        Some(Place(self.clone(), caller))
    }

    fn watching(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut watching = self.0.watching();
        if let Some(own) = watching.get_mut(&self.1) {
            *own -= 1;
            if *own == 0 {
                watching.remove(&self.1);
            }
        }
    }
}

/// What a watcher tells two states of a grant apart by.
fn mark(grant: &Grant, now: Now) -> (Uuid, &'static str, u32, usize) {
    (grant.id, grant.standing(now).as_str(), grant.used(), grant.approvals.len())
}

#[tonic::async_trait]
impl TaskService for GrantApi {
    async fn end(&self, request: Request<EndTaskRequest>) -> Result<Response<EndTaskResponse>, Status> {
        let admitted = self.guard.admit(request).await?;
        let EndTaskRequest { task, subject, reason } = admitted.message.clone();
        let by = admitted.question.author();
        let subject = match &by {
            Author::Workload(own) if subject.is_empty() => own.clone(),
            Author::Workload(own) if *own != subject => {
                return Err(Status::permission_denied("a workload ends its own part of a task only"));
            }
            _ => subject,
        };
        let closed = Closed { by, at: clock::now(), reason };
        let (cut, sessions) = (Arc::clone(&self.cut), self.sessions.clone());
        let (grants, ended, streams) = self
            .work(move |control| {
                let only = Some(subject.as_str()).filter(|subject| !subject.is_empty());
                let grants = control.grants.end_task(&control.journal, &task, only, &closed)?;
                let mut subjects: Vec<_> = grants.iter().map(|grant| Arc::clone(&grant.subject)).collect();
                subjects.sort_unstable();
                subjects.dedup();
                let key = Key { source: Source::Task, id: task.as_str().into() };
                let end =
                    |sessions: &Arc<Sessions>| subjects.iter().filter(|subject| sessions.end(subject, &key, closed.at)).count();
                let ended = sessions.as_ref().map_or(0, end);
                let grants: Result<Vec<_>, _> = grants.iter().map(|grant| control.grants.find(grant.id)).collect();
                Ok((grants?, ended, cut(clock::now())))
            })
            .await?;
        admitted.note(format!("grants that ended with it: {}", grants.len()));
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let grants = grants.iter().map(|grant| self.shown(grant)).collect();
        Ok(Response::new(EndTaskResponse { grants, sessions: count(ended), streams: count(streams) }))
    }
}

/// The request in the terms of `grant`. The owner is still to be found.
fn asked(
    request_id: String,
    scope: v1::Scope,
    reason: String,
    ticket: String,
    by: Author,
    denied: Option<Denied>,
) -> Result<Asked, Status> {
    let v1::Scope { subject, mut actions, mut resources, mut tenant, task, lifetime, max_uses } = scope;
    if let Some(denied) = &denied {
        let outside =
            || Status::permission_denied("the binding token is of another action; ask for that one alone, or without it");
        // What a client has put there must not become a pattern.
        if resources.is_empty() && denied.resource.as_ref().is_some_and(|resource| resource.contains('*')) {
            return Err(Status::invalid_argument(
                "the resource of the denial has a `*` in its id; write into `resources` what is meant",
            ));
        }
        if actions.is_empty() {
            actions.push(denied.action.clone());
            resources = if resources.is_empty() { denied.resource.clone().into_iter().collect() } else { resources };
            tenant = if tenant.is_empty() { denied.tenant.clone().unwrap_or_default() } else { tenant };
        }
        if actions != [denied.action.clone()] {
            return Err(outside());
        }
    }
    let life = match lifetime {
        None => None,
        Some(lifetime) => Some(span(lifetime).ok_or_else(|| Status::invalid_argument("`lifetime` is below zero, or none"))?),
    };
    let some = |text: String| (!text.is_empty()).then(|| text.into());
    let scope = Scope {
        actions: actions.into_iter().map(Into::into).collect(),
        resources: resources.into_iter().map(Into::into).collect(),
        tenant: some(tenant),
        task: some(task),
        max_uses: (max_uses > 0).then_some(max_uses),
    };
    Ok(Asked { request_id, subject, owner: None, scope, life, reason, ticket, by, denied })
}

fn refused(error: &GrantError) -> Status {
    let text = match error {
        GrantError::State(source) => super::revocation::chain(&**source),
        _ => error.to_string(),
    };
    match error {
        GrantError::Scope | GrantError::Resource(_) | GrantError::Text | GrantError::Life(_) | GrantError::Uses(_) => {
            Status::invalid_argument(text)
        }
        GrantError::OtherRequest => Status::already_exists(text),
        GrantError::Replayed
        | GrantError::ForAnother
        | GrantError::NobodyAsks
        | GrantError::SelfRenewal
        | GrantError::Requester
        | GrantError::Owner
        | GrantError::Subject
        | GrantError::NoOwner
        | GrantError::Twice(_)
        | GrantError::Renewal => Status::permission_denied(text),
        GrantError::TooManyOpen(_) | GrantError::TooManyOfSubject(_) | GrantError::TooManyOfRequester | GrantError::Full => {
            Status::resource_exhausted(text)
        }
        GrantError::Unknown | GrantError::UnknownTask => Status::not_found(text),
        GrantError::NotOpen(_) | GrantError::OverAlready(_) | GrantError::Ceiling | GrantError::Clock | GrantError::UsedUp => {
            Status::failed_precondition(text)
        }
        GrantError::State(source) if matches!(**source, StateError::NotDurable) => Status::failed_precondition(text),
        GrantError::State(_) => Status::unavailable(format!("nothing has changed: {text}")),
    }
}

fn shown(grant: &Grant, now: Now) -> v1::Grant {
    let Grant { id, rev, subject, owner, scope, life, reason, ticket, requested_by, denied, at, approvals, needed, fate, .. } =
        grant;
    let Scope { actions, resources, tenant, task, max_uses } = scope;
    let texts = |texts: &[Arc<str>]| texts.iter().map(|text| (**text).to_owned()).collect();
    let closed = match fate {
        Fate::Denied(closed) | Fate::Ended(closed) => Some(closed),
        Fate::Open | Fate::Granted { .. } => None,
    };
    v1::Grant {
        id: id.to_string(),
        rev: *rev,
        state: grant.standing(now).as_str().to_owned(),
        scope: Some(v1::Scope {
            subject: (**subject).to_owned(),
            actions: texts(actions),
            resources: texts(resources),
            tenant: tenant.as_deref().unwrap_or_default().to_owned(),
            task: task.as_deref().unwrap_or_default().to_owned(),
            lifetime: prost_types::Duration::try_from(*life).ok(),
            max_uses: max_uses.unwrap_or_default(),
        }),
        claimed: Some(v1::Claimed { reason: reason.clone(), ticket: ticket.clone() }),
        known: Some(v1::Known {
            requested_by: requested_by.to_string(),
            requested_at: timestamp(*at),
            owner: owner.clone().unwrap_or_default(),
            denial: denied.as_ref().map(|denied| v1::Denial {
                decision: denied.decision.clone(),
                action: denied.action.clone(),
                resource: denied.resource.clone().unwrap_or_default(),
                tenant: denied.tenant.clone().unwrap_or_default(),
            }),
        }),
        approvals: approvals
            .iter()
            .map(|approval| v1::Approval { by: Author::Person(approval.by.clone()).to_string(), at: timestamp(approval.at) })
            .collect(),
        approvals_needed: *needed,
        approved_until: grant.until().and_then(timestamp),
        used: grant.used(),
        closed_by: closed.map(|closed| closed.by.to_string()).unwrap_or_default(),
        closed_reason: closed.map(|closed| closed.reason.clone()).unwrap_or_default(),
        closed_at: closed.and_then(|closed| timestamp(closed.at)),
    }
}
