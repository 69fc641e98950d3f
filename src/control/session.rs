//! Sessions, to look at and to end.

use std::sync::Arc;

use tokio::{sync::Semaphore, task::spawn_blocking};
use tonic::{Request, Response, Status};

use super::{
    guard::Guard,
    page,
    pattern::Pattern,
    proto::{
        timestamp,
        v1::{
            ActionCount, Behaviour, EndSessionRequest, EndSessionResponse, ListSessionsRequest, ListSessionsResponse, PastAction,
            Session, ShowSessionRequest, ShowSessionResponse, session_service_server::SessionService,
        },
    },
};
use crate::{
    clock::{self, Now},
    session::{Count, Listed, Part, Past, Sessions, View},
    stream::Streams,
};

/// Callers at a time that look through all sessions: each stands in the way of decisions a little.
const LOOKS: usize = 1;

pub struct SessionApi {
    guard: Arc<Guard>,
    sessions: Arc<Sessions>,
    streams: Arc<Streams>,
    looks: Arc<Semaphore>,
}

impl SessionApi {
    pub fn new(guard: Arc<Guard>, sessions: Arc<Sessions>, streams: Arc<Streams>) -> Self {
        Self { guard, sessions, streams, looks: Arc::new(Semaphore::new(LOOKS)) }
    }

    /// Looks through all sessions, which may take a while, on a thread where nobody else waits.
    async fn look<T: Send + 'static>(&self, look: impl FnOnce(&Sessions) -> T + Send + 'static) -> Result<T, Status> {
        let stopping = |_| Status::unavailable("doorward is stopping");
        let permit = Arc::clone(&self.looks).acquire_owned().await.map_err(stopping)?;
        let sessions = Arc::clone(&self.sessions);
        let looked = spawn_blocking(move || {
            let _permit = permit;
            look(&sessions)
        });
        looked.await.map_err(|_| Status::internal("the search broke off"))
    }

    async fn find(&self, id: &str, now: Now) -> Result<(Listed, View), Status> {
        let id = parse(id).ok_or_else(|| Status::invalid_argument("`id` is no id of a session"))?;
        let found = self.look(move |sessions| sessions.show(id, now)).await?;
        found.ok_or_else(|| Status::not_found("there is no such session, or not any more"))
    }
}

#[tonic::async_trait]
impl SessionService for SessionApi {
    async fn list(&self, request: Request<ListSessionsRequest>) -> Result<Response<ListSessionsResponse>, Status> {
        let ListSessionsRequest { page_size, page_token, principal, label, source } = self.guard.admit(request).await?.message;
        let after = match page_token.as_str() {
            "" => None,
            token => Some(parse(token).ok_or_else(page::foreign)?),
        };
        let size = page::size(page_size)?;
        let principal = Pattern::new(&principal);
        let wanted = move |listed: &Listed| {
            principal.matches(Some(&listed.principal))
                && (label.is_empty() || listed.labels.iter().any(|known| **known == *label))
                && (source.is_empty() || listed.key.source.as_str() == source)
        };
        // One more tells whether there is another page.
        let mut found = self.look(move |sessions| sessions.list(after, size + 1, clock::now(), wanted)).await?;
        let next_page_token = page::cut(&mut found, size, |last| name(last.id));
        Ok(Response::new(ListSessionsResponse { sessions: found.into_iter().map(Session::from).collect(), next_page_token }))
    }

    async fn show(&self, request: Request<ShowSessionRequest>) -> Result<Response<ShowSessionResponse>, Status> {
        let ShowSessionRequest { id } = self.guard.admit(request).await?.message;
        let (listed, view) = self.find(&id, clock::now()).await?;
        let (behaviour, principal) = (Some(view.session.into()), Some(view.principal.into()));
        Ok(Response::new(ShowSessionResponse { session: Some(listed.into()), behaviour, principal }))
    }

    async fn end(&self, request: Request<EndSessionRequest>) -> Result<Response<EndSessionResponse>, Status> {
        let EndSessionRequest { id, reason: _ } = self.guard.admit(request).await?.message;
        let now = clock::now();
        let (listed, _) = self.find(&id, now).await?;
        if !self.sessions.end(&listed.principal, &listed.key, now) {
            return Err(Status::not_found("the session has just gone by itself"));
        }
        let streams = self.streams.end_session(listed.id);
        tracing::info!(session = id, principal = %listed.principal, streams, "an operator ended a session");
        let session = Session { ended: true, ..listed.into() };
        let streams = u32::try_from(streams).unwrap_or(u32::MAX);
        Ok(Response::new(EndSessionResponse { session: Some(session), streams }))
    }
}

/// As everywhere else a session is named.
fn name(id: u64) -> String {
    format!("{id:016x}")
}

fn parse(name: &str) -> Option<u64> {
    let is_name = name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_name.then(|| u64::from_str_radix(name, 16).ok()).flatten()
}

impl From<Listed> for Session {
    fn from(listed: Listed) -> Self {
        let Listed { id, principal, key, began, last, seq, ended, labels } = listed;
        Self {
            id: name(id),
            principal: principal.to_string(),
            source: key.source.as_str().to_owned(),
            key: key.id.to_string(),
            began_at: timestamp(began),
            last_at: timestamp(last),
            actions: seq,
            ended,
            labels: labels.iter().map(ToString::to_string).collect(),
        }
    }
}

impl From<Part> for Behaviour {
    fn from(part: Part) -> Self {
        let Part { labels, counts, path } = part;
        let count = |(action, count): &(Arc<str>, Count)| ActionCount {
            action: action.to_string(),
            count: count.n,
            first_at: timestamp(count.first),
            last_at: timestamp(count.last),
        };
        let past = |past: &Past| PastAction {
            number: past.n,
            action: past.action.to_string(),
            class: past.class.as_str().to_owned(),
            at: timestamp(past.at),
            decision: past.decision.map(|decision| decision.as_str().to_owned()).unwrap_or_default(),
            resource_hash: name(past.resource_hash),
        };
        Self {
            labels: labels.iter().map(ToString::to_string).collect(),
            counts: counts.iter().map(count).collect(),
            path: path.iter().map(past).collect(),
        }
    }
}
