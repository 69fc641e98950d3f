//! The identities that were seen and that the registry has, to look at.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::Semaphore, task::spawn_blocking};
use tonic::{Request, Response, Status};

use super::{
    guard::Guard,
    page,
    proto::{
        timestamp,
        v1::{
            self, ActionUse, CredentialUse, ListIdentitiesRequest, ListIdentitiesResponse, OverdueUse, ShowIdentityRequest,
            ShowIdentityResponse, inventory_service_server::InventoryService,
        },
    },
    workload,
};
use crate::{
    clock::{self, Now},
    inventory::{
        self, Finding, Identity, Inventory,
        seen::{Late, Sighting, Used},
    },
    policy::{PolicySet, PolicyStore},
    workload::Registry,
};

/// How long one may not be seen, where the caller says nothing.
const STALE: Duration = Duration::from_hours(30 * 24);
/// Callers at a time that look through all identities.
const LOOKS: usize = 1;

pub struct InventoryApi {
    guard: Arc<Guard>,
    inventory: Arc<Inventory>,
    policies: Arc<PolicyStore>,
    looks: Arc<Semaphore>,
}

/// What one look works on.
struct Look {
    inventory: Arc<Inventory>,
    /// None while no policy is in force; then nobody is registered.
    policy: Option<Arc<PolicySet>>,
    stale: Duration,
    now: Now,
    /// What entries of the registry allow, as far as it was asked.
    allowed: HashMap<Arc<str>, Vec<Arc<str>>>,
}

impl InventoryApi {
    pub fn new(guard: Arc<Guard>, inventory: Arc<Inventory>, policies: Arc<PolicyStore>) -> Self {
        Self { guard, inventory, policies, looks: Arc::new(Semaphore::new(LOOKS)) }
    }

    /// Looks through them, which may take a while, on a thread where nobody else waits.
    async fn look<T: Send + 'static>(
        &self,
        stale: Option<prost_types::Duration>,
        look: impl FnOnce(Look) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let stale = match stale {
            None => STALE,
            Some(stale) => Duration::try_from(stale).map_err(|_| Status::invalid_argument("`stale_after` is below zero"))?,
        };
        let stopping = |_| Status::unavailable("doorward is stopping");
        let permit = Arc::clone(&self.looks).acquire_owned().await.map_err(stopping)?;
        let (inventory, policy) = (Arc::clone(&self.inventory), self.policies.current());
        let work = Look { inventory, policy, stale, now: clock::now(), allowed: HashMap::new() };
        let looked = spawn_blocking(move || {
            let _permit = permit;
            look(work)
        });
        looked.await.map_err(|_| Status::internal("the search broke off"))
    }
}

#[tonic::async_trait]
impl InventoryService for InventoryApi {
    async fn list(&self, request: Request<ListIdentitiesRequest>) -> Result<Response<ListIdentitiesResponse>, Status> {
        let request = self.guard.admit(request).await?.message;
        let size = page::size(request.page_size)?;
        let page = self.look(request.stale_after, move |look| look.page(&request, size)).await?;
        Ok(Response::new(page))
    }

    async fn show(&self, request: Request<ShowIdentityRequest>) -> Result<Response<ShowIdentityResponse>, Status> {
        let ShowIdentityRequest { principal, stale_after } = self.guard.admit(request).await?.message;
        let shown = self.look(stale_after, move |look| look.one(&principal)).await?;
        shown.map(Response::new).ok_or_else(|| Status::not_found("it was not seen, and the registry has no entry of it"))
    }
}

impl Look {
    fn page(mut self, request: &ListIdentitiesRequest, size: usize) -> ListIdentitiesResponse {
        let ListIdentitiesRequest { page_size: _, page_token, prefix, unowned, stale, stale_after: _, third_party, .. } = request;
        let asked = [
            (Finding::Unowned, *unowned),
            (Finding::Stale, *stale),
            (Finding::ThirdParty, *third_party),
            (Finding::Overdue, request.overdue),
            (Finding::Unregistered, request.unregistered),
        ];
        let wanted = |identity: &Identity| {
            let findings = identity.findings(self.stale, self.now);
            asked.iter().all(|(finding, asked)| !asked || findings.contains(finding))
        };
        let after = Some(page_token.as_str()).filter(|token| !token.is_empty());
        // One more tells whether there is another page.
        let mut found = inventory::list(&self.inventory.seen, self.registry(), &self.came(), after, prefix, size + 1, wanted);
        let next_page_token = page::cut(&mut found, size, |last| last.principal.to_string());
        let identities = found.iter().map(|identity| self.shown(identity).0).collect();
        ListIdentitiesResponse { identities, next_page_token }
    }

    fn one(mut self, principal: &str) -> Option<ShowIdentityResponse> {
        let identity = inventory::find(&self.inventory.seen, self.registry(), principal)?;
        let (shown, unused) = self.shown(&identity);
        let sighting = identity.sighting.as_ref();
        Some(ShowIdentityResponse {
            identity: Some(shown),
            actions: sighting.iter().flat_map(|sighting| &sighting.actions).map(ActionUse::from).collect(),
            other_actions: sighting.map(|sighting| sighting.others).unwrap_or_default(),
            unused_actions: unused.iter().map(ToString::to_string).collect(),
        })
    }

    fn registry(&self) -> &Registry {
        match &self.policy {
            Some(policy) => policy.documents().registry,
            None => PolicySet::no_documents().registry,
        }
    }

    fn came(&self) -> Arc<HashSet<Arc<str>>> {
        match &self.policy {
            Some(policy) => self.inventory.came(policy.documents().registry, policy.digest()),
            None => Arc::default(),
        }
    }

    /// An identity as our own API tells it, and the actions that it might do.
    fn shown(&mut self, identity: &Identity) -> (v1::Identity, Vec<Arc<str>>) {
        let mut unused = Vec::new();
        if let (Some(registration), Some(policy)) = (&identity.registration, &self.policy) {
            let make = || policy.allowed(&registration.workload);
            unused = identity.unused(self.allowed.entry(Arc::clone(&registration.entry)).or_insert_with(make));
        }
        let shown = v1::Identity {
            principal: identity.principal.to_string(),
            findings: identity.findings(self.stale, self.now).iter().map(|finding| finding.as_str().to_owned()).collect(),
            workload: identity
                .registration
                .as_ref()
                .map(|registration| workload::shown(&registration.entry, &registration.workload, self.now)),
            seen: identity.sighting.as_ref().map(v1::Sighting::from),
            unused_actions: u32::try_from(unused.len()).unwrap_or(u32::MAX),
        };
        (shown, unused)
    }
}

impl From<&Sighting> for v1::Sighting {
    fn from(sighting: &Sighting) -> Self {
        let Sighting { principal: _, rank: _, first, last, allowed, denied, decision, lifetimes, actions, others: _, late } =
            sighting;
        let credential = |(credential, longest): (crate::identity::lifetime::Credential, Option<u32>)| CredentialUse {
            kind: credential.as_str().to_owned(),
            longest_lifetime: longest.map(|seconds| prost_types::Duration { seconds: i64::from(seconds), nanos: 0 }),
        };
        Self {
            first_at: timestamp(*first),
            last_at: timestamp(*last),
            allowed: *allowed,
            denied: *denied,
            decision_id: decision.to_string(),
            credentials: lifetimes.seen().map(credential).collect(),
            actions: u32::try_from(actions.len()).unwrap_or(u32::MAX),
            overdue: late.as_ref().map(OverdueUse::from),
        }
    }
}

impl From<&Late> for OverdueUse {
    fn from(late: &Late) -> Self {
        let Late { reasons, first, last, count } = late;
        Self {
            reasons: reasons.iter().map(|why| why.as_str().to_owned()).collect(),
            first_at: timestamp(*first),
            last_at: timestamp(*last),
            count: *count,
        }
    }
}

impl From<&Used> for ActionUse {
    fn from(used: &Used) -> Self {
        let Used { action, first, last, count } = used;
        Self { action: action.to_string(), count: *count, first_at: timestamp(*first), last_at: timestamp(*last) }
    }
}
