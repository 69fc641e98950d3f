//! The registry of the policy in force, to look at.

use std::sync::Arc;

use prost_types::Duration;
use tonic::{Request, Response, Status};

use super::{
    guard::Guard,
    page,
    proto::{
        timestamp,
        v1::{
            self, Allowed, GetWorkloadRequest, GetWorkloadResponse, ListWorkloadsRequest, ListWorkloadsResponse,
            workload_service_server::WorkloadService,
        },
    },
};
use crate::{
    clock::{self, Now},
    identity::x509,
    policy::{PolicySet, PolicyStore},
    workload::{Allow, Workload},
};

pub struct WorkloadApi {
    guard: Arc<Guard>,
    policies: Arc<PolicyStore>,
}

impl WorkloadApi {
    pub const fn new(guard: Arc<Guard>, policies: Arc<PolicyStore>) -> Self {
        Self { guard, policies }
    }

    fn policy(&self) -> Result<Arc<PolicySet>, Status> {
        self.policies.current().ok_or_else(|| Status::failed_precondition("no policy is in force, so there is no registry"))
    }
}

#[tonic::async_trait]
impl WorkloadService for WorkloadApi {
    async fn get(&self, request: Request<GetWorkloadRequest>) -> Result<Response<GetWorkloadResponse>, Status> {
        let GetWorkloadRequest { spiffe_id } = self.guard.admit(request).await?.message;
        x509::workload(&spiffe_id).map_err(|_| Status::invalid_argument("`spiffe_id` is no SPIFFE ID of a workload"))?;
        let policy = self.policy()?;
        let (entry, workload) =
            policy.documents().registry.entry(&spiffe_id).ok_or_else(|| Status::not_found("the registry has no entry of it"))?;
        Ok(Response::new(GetWorkloadResponse { workload: Some(shown(entry, workload, clock::now())) }))
    }

    async fn list(&self, request: Request<ListWorkloadsRequest>) -> Result<Response<ListWorkloadsResponse>, Status> {
        let ListWorkloadsRequest { page_size, page_token, prefix } = self.guard.admit(request).await?.message;
        let size = page::size(page_size)?;
        let policy = self.policy()?;
        let entries = policy.documents().registry.entries();
        let mut entries: Vec<_> = entries.filter(|(entry, _)| entry.starts_with(&prefix) && ***entry > *page_token).collect();
        entries.sort_unstable_by_key(|(entry, _)| *entry);
        let next_page_token = page::cut(&mut entries, size, |(entry, _)| entry.to_string());
        let now = clock::now();
        let workloads = entries.into_iter().map(|(entry, workload)| shown(entry, workload, now)).collect();
        Ok(Response::new(ListWorkloadsResponse { workloads, next_page_token }))
    }
}

/// An entry as our own API tells it.
pub fn shown(entry: &str, workload: &Workload, now: Now) -> v1::Workload {
    let Workload { owner, team, purpose, environments, third_party, state, expires_at, allows, schedule, .. } = workload;
    let Workload { max_credential_lifetime_s, max_credential_age_s, limits, escalation, mode, .. } = workload;
    let span = |seconds: &i64| Duration { seconds: *seconds, nanos: 0 };
    v1::Workload {
        entry: entry.to_owned(),
        owner: text(owner.as_ref()),
        team: text(team.as_ref()),
        purpose: text(purpose.as_ref()),
        environments: texts(environments.as_ref()),
        third_party: *third_party,
        state: state.to_string(),
        expires_at: expires_at.and_then(|at| timestamp(Now::from_seconds(u64::try_from(at).unwrap_or_default()))),
        active: workload.is_active(now),
        allows: allows.iter().map(Allowed::from).collect(),
        scheduled: schedule.is_some(),
        max_credential_lifetime: max_credential_lifetime_s.as_ref().map(span),
        max_credential_age: max_credential_age_s.as_ref().map(span),
        limits: limits.iter().map(|(action, most)| (action.to_string(), *most)).collect(),
        escalation: text(escalation.as_ref()),
        mode: mode.as_str().to_owned(),
    }
}

impl From<&Allow> for Allowed {
    fn from(allow: &Allow) -> Self {
        let Allow { actions, classes, resources, tenants, environments } = allow;
        Self {
            actions: texts(Some(actions)),
            classes: classes.iter().flatten().map(|class| class.as_str().to_owned()).collect(),
            resources: texts(resources.as_ref()),
            tenants: texts(tenants.as_ref()),
            environments: texts(environments.as_ref()),
        }
    }
}

fn text(text: Option<&Arc<str>>) -> String {
    text.map(ToString::to_string).unwrap_or_default()
}

fn texts(texts: Option<&Vec<Arc<str>>>) -> Vec<String> {
    texts.into_iter().flatten().map(ToString::to_string).collect()
}
