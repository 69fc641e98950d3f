//! Decisions as they are made, to whoever follows them. A follower that is too slow misses some and is told how many; it
//! never holds up a decision or another follower.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc},
    time::{Instant, MissedTickBehavior, interval_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{
    guard::{Guard, Question},
    line::Line,
    pattern::Pattern,
    proto::v1::{FollowRequest, FollowResponse, FollowedDecision, follow_response::Event, tail_service_server::TailService},
};
use crate::record::recent::Recent;

/// Followers at a time: each reads every line.
const FOLLOWERS: usize = 16;
/// Decisions on their way to one follower.
const AHEAD: usize = 64;
/// Time between two questions to the policy whether a follower may go on.
const ASK_AGAIN: Duration = Duration::from_secs(30);
/// Longest wait for a follower to take in why it is the end.
const PARTING: Duration = Duration::from_secs(1);

pub struct Tail {
    guard: Arc<Guard>,
    recent: Arc<Recent>,
    followers: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Tail {
    pub fn new(guard: Arc<Guard>, recent: Arc<Recent>, stop: CancellationToken) -> Self {
        Self { guard, recent, followers: Arc::new(Semaphore::new(FOLLOWERS)), stop }
    }
}

#[tonic::async_trait]
impl TailService for Tail {
    type FollowStream = ReceiverStream<Result<FollowResponse, Status>>;

    async fn follow(&self, request: Request<FollowRequest>) -> Result<Response<Self::FollowStream>, Status> {
        let admitted = self.guard.admit(request).await?;
        let selection = Selection::new(&admitted.message)?;
        let place = Arc::clone(&self.followers)
            .try_acquire_owned()
            .map_err(|_| Status::resource_exhausted(format!("{FOLLOWERS} others follow already")))?;
        let (to, from) = mpsc::channel(AHEAD);
        let follower = Follower {
            guard: Arc::clone(&self.guard),
            question: admitted.question,
            selection,
            lines: self.recent.follow(),
            to,
            _place: place,
        };
        let stop = self.stop.clone();
        tokio::spawn(async move {
            let to = follower.to.clone();
            let ended = tokio::select! {
                ended = follower.run() => ended,
                () = stop.cancelled() => Some(Status::unavailable("doorward is stopping")),
            };
            if let Some(status) = ended {
                // A follower that does not read need not know.
                let _ = to.send_timeout(Err(status), PARTING).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(from)))
    }
}

struct Follower {
    guard: Arc<Guard>,
    question: Question,
    selection: Selection,
    lines: broadcast::Receiver<Bytes>,
    to: mpsc::Sender<Result<FollowResponse, Status>>,
    _place: OwnedSemaphorePermit,
}

impl Follower {
    /// Until the follower goes away, or may not follow any more: then says why.
    async fn run(mut self) -> Option<Status> {
        let mut ask = interval_at(Instant::now() + ASK_AGAIN, ASK_AGAIN);
        ask.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let line = tokio::select! {
                line = self.lines.recv() => line,
                () = self.to.closed() => return None,
                _ = ask.tick() => {
                    if let Err(why) = self.guard.ask(&self.question).await {
                        return Some(Status::permission_denied(why));
                    }
                    continue;
                }
            };
            let event = match line {
                Ok(line) => self.selection.select(&line),
                Err(broadcast::error::RecvError::Lagged(missed)) => Some(Event::Missed(missed)),
                Err(broadcast::error::RecvError::Closed) => return Some(Status::unavailable("doorward is stopping")),
            };
            if let Some(event) = event
                && self.to.send(Ok(FollowResponse { event: Some(event) })).await.is_err()
            {
                return None;
            }
        }
    }
}

/// Which decisions a follower wants.
struct Selection {
    principal: Pattern,
    action: Pattern,
    decision: Option<String>,
    records: bool,
}

impl Selection {
    fn new(request: &FollowRequest) -> Result<Self, Status> {
        let FollowRequest { principal, action, decision, records } = request;
        let decision = match decision.as_str() {
            "" => None,
            "allow" | "deny" => Some(decision.clone()),
            _ => return Err(Status::invalid_argument("`decision` is `allow`, `deny` or empty")),
        };
        Ok(Self { principal: Pattern::new(principal), action: Pattern::new(action), decision, records: *records })
    }

    fn select(&self, bytes: &Bytes) -> Option<Event> {
        let line = Line::read(bytes)?;
        let wanted = self.principal.matches(line.principal())
            && self.action.matches(line.action())
            && self.decision.as_deref().is_none_or(|decision| decision == line.decision());
        wanted.then(|| {
            let record = if self.records { String::from_utf8_lossy(bytes).into_owned() } else { String::new() };
            Event::Decided(FollowedDecision { decision: Some(line.into()), record })
        })
    }
}
