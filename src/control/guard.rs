//! What comes before and after every call of our own API: who calls, whether the policy lets them, and the record of it.
//! A caller that is not known, a request that cannot be read, and a policy that has no answer are all refusals, and
//! nothing is changed then.

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use axum::{extract::State, middleware::Next};
use prost::Name;
use serde_json::{Value, json};
use tokio::{
    sync::{Semaphore, oneshot},
    task::AbortHandle,
};
use tonic::{Code, Request, Status};
use uuid::Uuid;

use super::proto;
use crate::{
    clock::{self, Now},
    identity::{
        Peer,
        author::{Author, Person},
        people::{People, PersonError},
    },
    listener::Remote,
    policy::PolicyStore,
    record::{Body, Caller, ControlRecord, Origin, Record, Recorder},
    revocation::Revocation,
    telemetry::{metrics::Metrics, trace::status_text},
    verdict::Decision,
};

/// Longest evaluation, on an engine that is always cold; and how many at a time.
const EVALUATION: Duration = Duration::from_secs(1);
const EVALUATIONS: usize = 2;
/// The stack that the deepest policy needs which loads.
const STACK: usize = 16 * 1024 * 1024;

/// The revocation that a workload falls under, by its certificate, and by its owner.
pub type Revoked = Box<dyn Fn(&Peer, Option<&str>) -> Option<Arc<Revocation>> + Send + Sync>;

/// Lets calls be, or refuses them.
pub struct Guard {
    policies: Arc<PolicyStore>,
    recorder: Recorder,
    metrics: Arc<Metrics>,
    /// Who verifies people's tokens.
    people: Option<Arc<People>>,
    revoked: Revoked,
    evaluations: Arc<Semaphore>,
    methods: Vec<String>,
}

/// A call that the policy lets be.
#[derive(Debug)]
pub struct Admitted<M> {
    pub message: M,
    /// What the policy was asked, to be asked again.
    pub question: Question,
    entry: Arc<Entry>,
}

impl<M> Admitted<M> {
    /// Says in the record of the call what came of it.
    pub fn note(&self, text: String) {
        self.entry.found().detail = Some(text);
    }
}

/// What the policy is asked: all of its input but the time.
#[derive(Debug, Clone)]
pub struct Question {
    method: String,
    caller: Caller,
    /// A person of `control.oidc.approvers`.
    approver: bool,
    request: Value,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").finish_non_exhaustive()
    }
}

/// One call on its way. Its record is written when this goes, however the call ended.
#[derive(Debug)]
struct Entry {
    guard: Arc<Guard>,
    method: String,
    caller: Caller,
    at: Now,
    found: Mutex<Found>,
}

#[derive(Debug)]
struct Found {
    request: Option<Value>,
    decision: Decision,
    code: Code,
    detail: Option<String>,
    /// The caller went away before the call was let be.
    gone: bool,
}

impl Found {
    /// Nothing is known but that it ended.
    const fn refused(code: Code, detail: Option<String>) -> Self {
        Self { request: None, decision: Decision::Deny, code, detail, gone: false }
    }
}

impl Guard {
    pub fn new(
        policies: Arc<PolicyStore>,
        recorder: Recorder,
        metrics: Arc<Metrics>,
        people: Option<Arc<People>>,
        revoked: Revoked,
    ) -> Self {
        let methods = proto::methods().collect();
        Self { policies, recorder, metrics, people, revoked, evaluations: Arc::new(Semaphore::new(EVALUATIONS)), methods }
    }

    /// Whether the policy lets the caller of `request` have it done.
    ///
    /// # Errors
    /// The status to answer with when not.
    pub async fn admit<M: Name>(&self, request: Request<M>) -> Result<Admitted<M>, Status> {
        let (_, extensions, message) = request.into_parts();
        // The middleware is around every service, so a call without an entry is nobody's.
        let entry = extensions.get::<Arc<Entry>>().ok_or_else(|| Status::internal("the call came by an unknown way"))?;
        let request = proto::to_json(&message).ok_or_else(|| Status::internal("the request has no JSON form"))?;
        entry.found().request = Some(request.clone());
        let caller = entry.caller.clone();
        let approver =
            self.people.as_ref().zip(caller.person.as_ref()).is_some_and(|(people, person)| people.is_approver(person));
        let question = Question { method: entry.method.clone(), caller, approver, request };
        match self.ask(&question).await {
            Ok(()) => {
                let mut found = entry.found();
                if found.gone {
                    return Err(Status::cancelled("the caller went away"));
                }
                found.decision = Decision::Allow;
                drop(found);
                Ok(Admitted { message, question, entry: Arc::clone(entry) })
            }
            Err(why) => {
                tracing::warn!(method = entry.method, caller = %question.author(), why, "refused a call of our own API");
                entry.found().detail = Some(why.clone());
                Err(Status::permission_denied(why))
            }
        }
    }

    /// Asks the policy in force; anything but a plain yes is the reason for a no.
    ///
    /// # Errors
    /// Why not.
    pub async fn ask(&self, question: &Question) -> Result<(), String> {
        let policy = self.policies.current().ok_or("no policy is in force, so nothing is allowed")?;
        let Ok(permit) = Arc::clone(&self.evaluations).acquire_owned().await else {
            return Err("doorward is stopping".to_owned());
        };
        let now = clock::now();
        let input = question.input(now);
        let (reply, answer) = oneshot::channel();
        let ask = move || {
            let _permit = permit;
            // The caller may be gone by now.
            let _ = reply.send(policy.control(&input, now, EVALUATION));
        };
        let started = thread::Builder::new().name("control".to_owned()).stack_size(STACK).spawn(ask);
        started.map_err(|_| "there is no thread to ask the policy on")?;
        match answer.await {
            Ok(Ok(Some(Value::Bool(true)))) => Ok(()),
            Ok(Ok(Some(_))) => Err("the policy's `data.guard.control.allow` says no".to_owned()),
            Ok(Ok(None)) => Err("the policy's `data.guard.control.allow` is undefined, which is a no".to_owned()),
            Ok(Err(failure)) => Err(format!("the policy failed: {}", failure.detail)),
            Err(_) => Err("the policy could not be asked".to_owned()),
        }
    }

    /// The person who asks, known well enough to approve and to restore.
    ///
    /// # Errors
    /// The status to answer with where it is nobody's, or not well enough known.
    pub fn approver<'a>(&self, question: &'a Question) -> Result<&'a Person, Status> {
        let nobody = "only a person approves, known by an OIDC token of an issuer in `control.oidc` (`--token-file`)";
        let person = question.caller.person.as_ref().ok_or_else(|| Status::failed_precondition(nobody))?;
        let weak = "the token's `acr` is none of `control.oidc.acr`: log in with a stronger method";
        let strong = self.people.as_ref().is_some_and(|people| people.is_strong(person));
        if strong { Ok(person) } else { Err(Status::failed_precondition(weak)) }
    }

    /// Somebody was turned away before a byte was read.
    pub fn turned_away(&self, caller: Caller) {
        let author = author(&caller);
        let detail = Some(format!("{author} is neither our own user id nor in `control.uids`"));
        self.tell(None, caller, clock::now(), Found::refused(Code::Unauthenticated, detail));
    }

    fn tell(&self, method: Option<String>, caller: Caller, at: Now, found: Found) {
        let Found { request, decision, code, detail, gone: _ } = found;
        // What a caller makes up is no label.
        let known = method.as_ref().filter(|method| self.methods.contains(method));
        self.metrics.control_called(known.map_or("other", String::as_str), code);
        let record = ControlRecord { method, caller, request, decision, outcome: status_text(code), detail };
        self.recorder.offer(Record { id: Uuid::now_v7(), at, body: Body::Control(Box::new(record)) });
    }
}

impl Question {
    /// Who asks, as the control log keeps it.
    pub fn author(&self) -> Author {
        author(&self.caller)
    }

    fn input(&self, now: Now) -> Value {
        let Self { method, caller: Caller { from, person }, approver, request } = self;
        let mut caller = match from {
            Origin::Process { uid, gid, .. } => json!({"kind": "unix", "uid": uid, "gid": gid}),
            Origin::Workload { spiffe_id } => json!({"kind": "mtls", "spiffe_id": spiffe_id}),
            Origin::Unknown {} => json!({"kind": "none"}),
        };
        let mut add = |key: &str, value: Value| caller.as_object_mut().map(|members| members.insert(key.to_owned(), value));
        if let Origin::Process { pid: Some(pid), .. } = from {
            add("pid", json!(pid));
        }
        if let Some(Person { issuer, subject, name, groups, acr }) = person {
            add("kind", json!("oidc"));
            add("person", json!(name));
            add("issuer", json!(issuer));
            add("subject", json!(subject));
            add("groups", json!(groups));
            add("approver", json!(approver));
            acr.as_ref().and_then(|acr| add("acr", json!(acr)));
        }
        json!({
            "caller": caller,
            "method": method,
            "request": request,
            "now": {"ns": now.ns, "rfc3339": now.rfc3339()},
        })
    }
}

impl Entry {
    fn found(&self) -> std::sync::MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self, response: &axum::response::Response) {
        // A call that went well has its status behind the body.
        let status = Status::from_header_map(response.headers());
        let mut found = self.found();
        (found.code, found.detail) = match status {
            None => (Code::Ok, found.detail.take()),
            Some(status) => (status.code(), found.detail.take().or_else(|| Some(status.message().to_owned()))),
        };
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let found = std::mem::replace(&mut *self.found(), Found::refused(Code::Unknown, None));
        self.guard.tell(Some(std::mem::take(&mut self.method)), self.caller.clone(), self.at, found);
    }
}

/// Stands around every service, so that what never gets as far as one leaves a record too: a method that is not there,
/// a message that is too large or cannot be read, a token that does not count, a caller that goes away.
pub async fn record(
    State(guard): State<Arc<Guard>>,
    mut request: axum::extract::Request,
    next: Next,
) -> axum::response::Response {
    let from = match request.extensions().get::<Remote>() {
        Some(Remote::Process(peer)) => process(*peer),
        Some(Remote::Workload(peer)) => Origin::Workload { spiffe_id: Arc::clone(&peer.text) },
        Some(Remote::Unknown) | None => Origin::Unknown {},
    };
    let (person, refused) = match guard.person(&request) {
        Ok(person) => (person, None),
        Err(error) => (None, Some(Status::unauthenticated(error.to_string()))),
    };
    let nobody = matches!(from, Origin::Unknown {}) && person.is_none();
    let unknown = || Status::unauthenticated("show who you are: by an SVID, or by a token in `authorization`");
    let refused = refused.or_else(|| nobody.then(unknown)).or_else(|| guard.revoked(&request));
    let entry = Arc::new(Entry {
        guard,
        method: request.uri().path().trim_start_matches('/').to_owned(),
        caller: Caller { from, person },
        at: clock::now(),
        found: Mutex::new(Found::refused(Code::Cancelled, None)),
    });
    request.extensions_mut().insert(Arc::clone(&entry));
    if let Some(status) = refused {
        let response = status.into_http();
        entry.ended(&response);
        return response;
    }
    let own = Arc::clone(&entry);
    let call = tokio::spawn(async move {
        let response = next.run(request).await;
        own.ended(&response);
        response
    });
    let _caller = Waiting { entry: &entry, call: call.abort_handle() };
    call.await.unwrap_or_else(|_| {
        let response = Status::internal("the call broke off").into_http();
        entry.ended(&response);
        response
    })
}

/// A caller that waits. If it goes away, its call ends there; but one that the policy has let be goes on to its end, so that
/// the record says what came of it and not that nothing did.
struct Waiting<'a> {
    entry: &'a Entry,
    call: AbortHandle,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut found = self.entry.found();
        if found.decision == Decision::Deny {
            found.gone = true;
            self.call.abort();
        }
    }
}

impl Guard {
    /// Who says by a token who it is.
    fn person(&self, request: &axum::extract::Request) -> Result<Option<Person>, PersonError> {
        let mut shown = request.headers().get_all("authorization").iter();
        let Some(text) = shown.next() else { return Ok(None) };
        let (text, None) = (text.to_str().map_err(|_| PersonError::Scheme)?, shown.next()) else {
            return Err(PersonError::Scheme);
        };
        let people = self.people.as_ref().ok_or(PersonError::Nobody)?;
        people.person(text, clock::now()).map(Some)
    }
}

impl Guard {
    /// A workload that is revoked changes nothing here either, whatever the policy says.
    fn revoked(&self, request: &axum::extract::Request) -> Option<Status> {
        let Some(Remote::Workload(peer)) = request.extensions().get::<Remote>() else { return None };
        let policy = self.policies.current();
        let owner = policy.as_ref().and_then(|policy| policy.documents().registry.find(&peer.text)?.owner.clone());
        let hit = (self.revoked)(peer, owner.as_deref())?;
        Some(Status::permission_denied(hit.text()))
    }
}

fn process(peer: tokio::net::unix::UCred) -> Origin {
    Origin::Process { uid: peer.uid(), gid: peer.gid(), pid: peer.pid() }
}

/// A process on this host that shows no token.
pub fn caller(peer: tokio::net::unix::UCred) -> Caller {
    Caller { from: process(peer), person: None }
}

fn author(Caller { from, person }: &Caller) -> Author {
    match (person, from) {
        (Some(person), _) => Author::Person(person.clone()),
        (None, Origin::Process { uid, .. }) => Author::Unix(*uid),
        (None, Origin::Workload { spiffe_id }) => Author::Workload((**spiffe_id).to_owned()),
        (None, Origin::Unknown {}) => Author::Workload(String::new()),
    }
}
