//! Revocations: made, listed, and taken back by two people.

use std::sync::Arc;

use tokio::task::spawn_blocking;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{
    Cut,
    guard::{Admitted, Guard},
    page,
    proto::{
        seconds, span, timestamp,
        v1::{
            self, Applied, ApproveRestoreRequest, ApproveRestoreResponse, ListRevocationsRequest, ListRevocationsResponse,
            Receipt, RestoreRequest, RestoreResponse, RevokeRequest, RevokeResponse,
            revocation_service_server::RevocationService, selector::What,
        },
    },
};
use crate::{
    authorizer::ControlState,
    clock::{self, Now},
    revocation::{Asked, DEFAULT_LIFE, RestoreAsked, RestoreError, Revocation, RevokeError, Revoked, Selector, SelectorError},
    session::Sessions,
    state::StateError,
};

pub struct RevocationApi {
    guard: Arc<Guard>,
    control: ControlState,
    sessions: Arc<Sessions>,
    /// Ends the streams that fall under what was revoked.
    cut: Cut,
    /// Of this process, as records name it.
    instance: String,
}

impl RevocationApi {
    pub fn new(guard: Arc<Guard>, control: ControlState, sessions: Arc<Sessions>, cut: Cut, instance: String) -> Self {
        Self { guard, control, sessions, cut, instance }
    }

    /// Works where it may block.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&ControlState, &Sessions) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let (control, sessions) = (self.control.clone(), Arc::clone(&self.sessions));
        let worked = spawn_blocking(move || work(&control, &sessions)).await;
        worked.map_err(|_| Status::internal("the work broke off; list the revocations to see what became of it"))
    }

    /// Principals that a broad selector falls on now.
    async fn principals(&self, selector: &Selector) -> Result<u64, Status> {
        let selector = selector.clone();
        let count = self.work(move |_, sessions| sessions.principals(clock::now(), |id| selector.covers(id))).await?;
        Ok(u64::try_from(count).unwrap_or(u64::MAX))
    }
}

#[tonic::async_trait]
impl RevocationService for RevocationApi {
    async fn revoke(&self, request: Request<RevokeRequest>) -> Result<Response<RevokeResponse>, Status> {
        let admitted = self.guard.admit(request).await?;
        let (asked, confirmed) = asked(&admitted)?;
        let selector = asked.selector.clone();
        let principals = if selector.is_broad() { self.principals(&selector).await? } else { 0 };
        if selector.is_broad() && !confirmed {
            return Err(Status::invalid_argument(format!(
                "{selector}: {principals} principals with a session now fall under it, and others may; confirm it (`--yes`)"
            )));
        }
        let cut = Arc::clone(&self.cut);
        let revoked = self.work(move |control, _| {
            // First in force, then the streams: one that opens meanwhile finds one or the other.
            control.revocations.revoke(&control.journal, &asked, clock::now()).map(|revoked| (revoked, cut(clock::now())))
        });
        let (Revoked { revocation, log, repeated }, streams) = revoked.await?.map_err(|error| refused(&error))?;
        admitted.note(format!("rev {}, {}", revocation.rev, revocation.text()));
        if !repeated {
            tracing::info!(revocation = %revocation.id, rev = revocation.rev, author = revocation.author, "an operator revoked");
        }
        let applied = vec![Applied { instance: self.instance.clone(), at: timestamp(clock::now()) }];
        Ok(Response::new(RevokeResponse {
            receipt: Some(Receipt { log: log.to_string(), rev: revocation.rev, applied }),
            revocation: Some((&*revocation).into()),
            repeated,
            volatile: !self.control.journal.is_durable(),
            principals,
            streams: u64::try_from(streams).unwrap_or(u64::MAX),
        }))
    }

    async fn list(&self, request: Request<ListRevocationsRequest>) -> Result<Response<ListRevocationsResponse>, Status> {
        let ListRevocationsRequest { page_size, page_token, kind, spiffe_id } = self.guard.admit(request).await?.message;
        let after = page::after(&page_token)?;
        let size = page::size(page_size)?;
        if !kind.is_empty() && !Selector::KINDS.contains(&kind.as_str()) {
            return Err(Status::invalid_argument(format!("`kind` is one of {}", Selector::KINDS.join(", "))));
        }
        let wanted = move |revocation: &Revocation| {
            (kind.is_empty() || revocation.selector.kind() == kind)
                && (spiffe_id.is_empty() || revocation.selector.covers(&spiffe_id))
        };
        // One more tells whether there is another page.
        let mut found = self.work(move |control, _| control.revocations.list(after, size + 1, clock::now(), wanted)).await?;
        let next_page_token = page::cut(&mut found, size, |last| last.rev.to_string());
        let revocations = found.iter().map(|revocation| (&**revocation).into()).collect();
        Ok(Response::new(ListRevocationsResponse { revocations, next_page_token }))
    }

    async fn restore(&self, request: Request<RestoreRequest>) -> Result<Response<RestoreResponse>, Status> {
        let admitted = self.guard.admit(request).await?;
        let RestoreRequest { id, reason } = admitted.message.clone();
        let by = self.guard.approver(&admitted.question)?.clone();
        let asked = RestoreAsked { revocation: id_of(&id)?, reason, by };
        let asked = self.work(move |control, _| control.revocations.ask_to_restore(&control.journal, &asked, clock::now()));
        let restore = asked.await?.map_err(|error| not_restored(&error))?;
        admitted.note(format!("request {} to restore revocation {}: {}", restore.id, restore.revocation, restore.reason));
        Ok(Response::new(RestoreResponse { restore: restore.id.to_string() }))
    }

    async fn approve_restore(&self, request: Request<ApproveRestoreRequest>) -> Result<Response<ApproveRestoreResponse>, Status> {
        let admitted = self.guard.admit(request).await?;
        let by = self.guard.approver(&admitted.question)?.clone();
        let request = id_of(&admitted.message.restore)?;
        let restored = self.work(move |control, _| control.revocations.restore(&control.journal, request, &by, clock::now()));
        let revocation = restored.await?.map_err(|error| not_restored(&error))?;
        admitted.note(format!("ended {}", revocation.text()));
        Ok(Response::new(ApproveRestoreResponse { revocation: Some((&*revocation).into()) }))
    }
}

pub(super) fn id_of(text: &str) -> Result<Uuid, Status> {
    text.parse().map_err(|_| Status::invalid_argument(format!("`{}` is no id", text.chars().take(64).collect::<String>())))
}

fn not_restored(error: &RestoreError) -> Status {
    let text = chain(error);
    match error {
        RestoreError::Unknown | RestoreError::UnknownRequest => Status::not_found(text),
        RestoreError::Requester => Status::permission_denied(text),
        RestoreError::Reason => Status::invalid_argument(text),
        RestoreError::TooMany => Status::resource_exhausted(text),
        RestoreError::State(StateError::NotDurable) => Status::failed_precondition(text),
        RestoreError::State(_) => Status::unavailable(format!("nothing was restored: {text}")),
    }
}

/// The request in the terms of `revocation`, and whether it was confirmed.
fn asked(admitted: &Admitted<RevokeRequest>) -> Result<(Asked, bool), Status> {
    let invalid = |text: &str| Status::invalid_argument(text.to_owned());
    let RevokeRequest { request_id, selector, issued_before, reason, lifetime, confirm } = admitted.message.clone();
    let selector = selector.and_then(|selector| selector.what).ok_or_else(|| invalid("`selector` selects nothing"))?;
    let selector = Selector::try_from(selector).map_err(|error| invalid(&error.to_string()))?;
    let life = match lifetime {
        None => DEFAULT_LIFE,
        Some(lifetime) => span(lifetime).ok_or_else(|| invalid("`lifetime` is below zero, or none"))?,
    };
    // In whole seconds, as certificates and tokens tell theirs: rather one too many is refused.
    let issued_before = match issued_before {
        None => None,
        Some(at) => Some(seconds(at).ok_or_else(|| invalid("`issued_before` is no instant"))?),
    };
    let author = admitted.question.author().to_string();
    Ok((Asked { request_id, selector, issued_before, reason, author, life }, confirm))
}

fn refused(error: &RevokeError) -> Status {
    let text = chain(error);
    match error {
        RevokeError::State(StateError::NotDurable) => Status::failed_precondition(text),
        RevokeError::State(_) => Status::unavailable(format!("nothing was revoked: {text}")),
        RevokeError::Full => Status::resource_exhausted(text),
        RevokeError::OtherRequest => Status::already_exists(text),
        RevokeError::NoFloor | RevokeError::FutureFloor | RevokeError::Reason | RevokeError::RequestId | RevokeError::Life => {
            Status::invalid_argument(text)
        }
    }
}

/// An error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

impl TryFrom<What> for Selector {
    type Error = SelectorError;

    fn try_from(what: What) -> Result<Self, SelectorError> {
        match what {
            What::SpiffeId(id) => Self::spiffe_id(&id),
            What::Prefix(prefix) => Self::prefix(&prefix),
            What::TrustDomain(domain) => Self::trust_domain(&domain),
            What::Certificate(sha256) => Self::certificate(&sha256),
            What::Serial(v1::Serial { issuer, serial }) => Self::serial(&issuer, &serial),
            What::Jti(v1::Jti { issuer, jti }) => Self::jti(&issuer, &jti),
            What::Fingerprint(sha256) => Self::fingerprint(&sha256),
            What::Session(id) => Self::session(&id),
            What::Task(id) => Self::task(&id),
            What::Grant(id) => Self::grant(&id),
            What::Owner(owner) => Self::owner(&owner),
        }
    }
}

impl From<Selector> for v1::Selector {
    fn from(selector: Selector) -> Self {
        let what = match selector {
            Selector::SpiffeId(id) => What::SpiffeId(id),
            Selector::Prefix(prefix) => What::Prefix(prefix),
            Selector::TrustDomain(domain) => What::TrustDomain(domain),
            Selector::Certificate(sha256) => What::Certificate(sha256),
            Selector::Serial { issuer, serial } => What::Serial(v1::Serial { issuer, serial }),
            Selector::Jti { issuer, jti } => What::Jti(v1::Jti { issuer, jti }),
            Selector::Fingerprint(sha256) => What::Fingerprint(sha256),
            Selector::Session(id) => What::Session(id),
            Selector::Task(id) => What::Task(id),
            Selector::Grant(id) => What::Grant(id),
            Selector::Owner(owner) => What::Owner(owner),
        };
        Self { what: Some(what) }
    }
}

impl From<&Revocation> for v1::Revocation {
    fn from(revocation: &Revocation) -> Self {
        let Revocation { id, rev, selector, issued_before, reason, author, at, expires_at, request_id } = revocation.clone();
        Self {
            id: id.to_string(),
            rev,
            selector: Some(selector.into()),
            issued_before: issued_before.and_then(|at| timestamp(Now::from_seconds(u64::try_from(at).unwrap_or_default()))),
            reason,
            author,
            at: timestamp(at),
            expires_at: timestamp(expires_at),
            request_id,
        }
    }
}
