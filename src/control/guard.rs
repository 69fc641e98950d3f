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
use tokio::sync::{Semaphore, oneshot};
use tonic::{Code, Request, Status, transport::server::UdsConnectInfo};
use uuid::Uuid;

use super::proto;
use crate::{
    clock::{self, Now},
    policy::PolicyStore,
    record::{Body, Caller, ControlRecord, Record, Recorder},
    telemetry::{metrics::Metrics, trace::status_text},
    verdict::Decision,
};

/// Longest evaluation, on an engine that is always cold; and how many at a time.
const EVALUATION: Duration = Duration::from_secs(1);
const EVALUATIONS: usize = 2;
/// The stack that the deepest policy needs which loads.
const STACK: usize = 16 * 1024 * 1024;

/// Lets calls be, or refuses them.
#[derive(Debug)]
pub struct Guard {
    policies: Arc<PolicyStore>,
    recorder: Recorder,
    metrics: Arc<Metrics>,
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
    request: Value,
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
}

impl Guard {
    pub fn new(policies: Arc<PolicyStore>, recorder: Recorder, metrics: Arc<Metrics>) -> Self {
        let methods = proto::methods().collect();
        Self { policies, recorder, metrics, evaluations: Arc::new(Semaphore::new(EVALUATIONS)), methods }
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
        let question = Question { method: entry.method.clone(), caller: entry.caller, request };
        match self.ask(&question).await {
            Ok(()) => {
                entry.found().decision = Decision::Allow;
                Ok(Admitted { message, question, entry: Arc::clone(entry) })
            }
            Err(why) => {
                tracing::warn!(method = entry.method, uid = entry.caller.uid, why, "refused a call of our own API");
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

    /// Somebody was turned away before a byte was read.
    pub fn turned_away(&self, caller: Caller) {
        let detail = Some(format!("user id {} is neither our own nor in `control.uids`", caller.uid));
        let found = Found { request: None, decision: Decision::Deny, code: Code::Unauthenticated, detail };
        self.tell(None, caller, clock::now(), found);
    }

    fn tell(&self, method: Option<String>, caller: Caller, at: Now, found: Found) {
        let Found { request, decision, code, detail } = found;
        // What a caller makes up is no label.
        let known = method.as_ref().filter(|method| self.methods.contains(method));
        self.metrics.control_called(known.map_or("other", String::as_str), code);
        let record = ControlRecord { method, caller, request, decision, outcome: status_text(code), detail };
        self.recorder.offer(Record { id: Uuid::now_v7(), at, body: Body::Control(Box::new(record)) });
    }
}

impl Question {
    /// Who asks, as a revocation names its author.
    pub fn author(&self) -> String {
        format!("uid {}", self.caller.uid)
    }

    fn input(&self, now: Now) -> Value {
        let Self { method, caller: Caller { uid, gid, pid }, request } = self;
        let mut caller = json!({"kind": "unix", "uid": uid, "gid": gid});
        if let (Some(pid), Value::Object(members)) = (pid, &mut caller) {
            members.insert("pid".to_owned(), json!(pid));
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
}

impl Drop for Entry {
    fn drop(&mut self) {
        let gone = Found { request: None, decision: Decision::Deny, code: Code::Unknown, detail: None };
        let found = std::mem::replace(&mut *self.found(), gone);
        self.guard.tell(Some(std::mem::take(&mut self.method)), self.caller, self.at, found);
    }
}

/// Stands around every service, so that what never gets as far as one leaves a record too: a method that is not there,
/// a message that is too large or cannot be read, a caller that goes away.
pub async fn record(
    State(guard): State<Arc<Guard>>,
    mut request: axum::extract::Request,
    next: Next,
) -> axum::response::Response {
    let peer = request.extensions().get::<UdsConnectInfo>().and_then(|info| info.peer_cred);
    let Some(peer) = peer else { return Status::unauthenticated("who calls is not known").into_http() };
    let found = Found { request: None, decision: Decision::Deny, code: Code::Cancelled, detail: None };
    let entry = Arc::new(Entry {
        guard,
        method: request.uri().path().trim_start_matches('/').to_owned(),
        caller: caller(peer),
        at: clock::now(),
        found: Mutex::new(found),
    });
    request.extensions_mut().insert(Arc::clone(&entry));
    let response = next.run(request).await;
    // A call that went well has its status behind the body.
    let status = Status::from_header_map(response.headers());
    let mut found = entry.found();
    (found.code, found.detail) = match status {
        None => (Code::Ok, found.detail.take()),
        Some(status) => (status.code(), found.detail.take().or_else(|| Some(status.message().to_owned()))),
    };
    drop(found);
    response
}

pub fn caller(peer: tokio::net::unix::UCred) -> Caller {
    Caller { uid: peer.uid(), gid: peer.gid(), pid: peer.pid() }
}
