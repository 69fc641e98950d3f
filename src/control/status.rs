//! How this process is: what `/readyz` knows, and how full its tables are.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{
    Parts,
    guard::Guard,
    proto::v1::{Alarm, GetStatusRequest, GetStatusResponse, status_service_server::StatusService},
};
use crate::{
    authorizer::ControlState,
    inventory::{Inventory, seen::Census},
    policy::PolicyStore,
    record::Recorder,
    session::Sessions,
    stream::Streams,
    verdict::Mode,
};

/// How the process looks, by whoever put it together.
pub struct Condition {
    pub mode: Mode,
    /// Why it is not ready; none when it is.
    pub obstacle: Option<&'static str>,
    /// What somebody should look at: what it is about, and a text.
    pub alarms: Vec<(&'static str, String)>,
}

/// Asks whoever put the process together.
pub type Health = Box<dyn Fn() -> Condition + Send + Sync>;

/// What a status is made of.
pub struct StatusParts {
    health: Health,
    instance: String,
    policies: Arc<PolicyStore>,
    recorder: Recorder,
    sessions: Arc<Sessions>,
    control: ControlState,
    streams: Arc<Streams>,
    inventory: Arc<Inventory>,
}

pub struct StatusApi {
    guard: Arc<Guard>,
    parts: StatusParts,
}

impl StatusApi {
    pub fn parts(parts: &Parts, health: Health) -> StatusParts {
        let Parts { instance, policies, recorder, sessions, control, streams, inventory, .. } = parts;
        StatusParts {
            health,
            instance: instance.clone(),
            policies: Arc::clone(policies),
            recorder: recorder.clone(),
            sessions: Arc::clone(sessions),
            control: control.clone(),
            streams: Arc::clone(streams),
            inventory: Arc::clone(inventory),
        }
    }

    pub const fn new(guard: Arc<Guard>, parts: StatusParts) -> Self {
        Self { guard, parts }
    }
}

#[tonic::async_trait]
impl StatusService for StatusApi {
    async fn get(&self, request: Request<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
        self.guard.admit(request).await?;
        let StatusParts { health, instance, policies, recorder, sessions, control, streams, inventory } = &self.parts;
        let Condition { mode, obstacle, alarms } = health();
        let (policy, current, sessions) = (policies.current(), control.revocations.current(), sessions.census());
        let Census { principals, forgotten, refused } = inventory.seen.census();
        let alarm = |(about, text): (&str, String)| Alarm { about: about.to_owned(), text };
        Ok(Response::new(GetStatusResponse {
            instance: instance.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mode: mode.as_str().to_owned(),
            ready: obstacle.is_none(),
            obstacle: obstacle.unwrap_or_default().to_owned(),
            policy_revision: policy.as_ref().map(|policy| policy.revision().to_string()).unwrap_or_default(),
            policy_digest: policy.as_ref().map(|policy| policy.digest().to_string()).unwrap_or_default(),
            log: current.epoch.map(|epoch| epoch.log.to_string()).unwrap_or_default(),
            rev: current.epoch.map(|epoch| epoch.rev).unwrap_or_default(),
            durable: control.journal.is_durable(),
            revocations: number(current.len()),
            sessions: number(sessions.sessions),
            principals: number(sessions.principals),
            streams: number(streams.count()),
            records_waiting: number(recorder.waiting()),
            identities: number(principals),
            identities_forgotten: forgotten,
            identities_refused: refused,
            alarms: alarms.into_iter().map(alarm).collect(),
        }))
    }
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
