//! The inventory, the registry and the status over our own API.

use super::{
    super::proto::v1::{
        GetStatusRequest, GetWorkloadRequest, ListIdentitiesRequest, ListWorkloadsRequest, ShowIdentityRequest,
        inventory_service_client::InventoryServiceClient, status_service_client::StatusServiceClient,
        workload_service_client::WorkloadServiceClient,
    },
    *,
};
use crate::{
    identity::lifetime::Lifetimes,
    inventory::seen::{Overdue, Rank, Sight},
    verdict::Decision,
};

const DOCUMENTS: &str = "
doorward:
  actions:
    orders.read: {match: [{path: /orders, methods: [GET]}], class: read}
    orders.write: {match: [{path: /orders, methods: [POST]}], class: write}
    orders.sub.delete: {match: [{path: /orders, methods: [DELETE]}], class: delete}
  workloads:
    spiffe://example.org/agent: {owner: kim, team: shop, allows: ['orders.*', elsewhere], limits: {orders.read: 5}}
    spiffe://example.org/ns/**: {purpose: all of them, allows: [{actions: ['**'], classes: [read]}]}
    spiffe://partner.org/robot: {owner: pat, third_party: true, expires_at: '2031-01-01T00:00:00Z'}
";

fn see(api: &Api, principal: &str, days_ago: u64, action: Option<&str>) {
    let (principal, action): (Arc<str>, Option<Arc<str>>) = (principal.into(), action.map(Into::into));
    let mut lifetimes = Lifetimes::default();
    lifetimes.restore("x509_svid", Some(3600));
    api.inventory.seen.see(&Sight {
        principal: &principal,
        rank: Rank::of(&principal, true),
        at: Now { ns: clock::now().ns - days_ago * 24 * 3600 * 1_000_000_000 },
        id: Uuid::nil(),
        decision: Decision::Allow,
        action: action.as_ref(),
        lifetimes,
    });
}

fn start() -> Api {
    let api = Api::start("", false);
    fs::write(api.folder.path().join("policy/documents.yaml"), DOCUMENTS).unwrap();
    api.put(DECIDES, OPEN);
    see(&api, "spiffe://example.org/agent", 0, Some("orders.read"));
    see(&api, "spiffe://example.org/stranger", 40, None);
    see(&api, "https://as.example#robot", 3, None);
    api.inventory.seen.overdue("https://as.example#robot", Overdue::TaskEnded, clock::now());
    api
}

#[tokio::test(flavor = "multi_thread")]
async fn identities_are_listed_by_what_is_wrong_with_them() {
    let api = start();
    let client = &mut InventoryServiceClient::new(api.channel());
    let mut list = async |request: ListIdentitiesRequest| {
        let page = client.list(request).await.map(tonic::Response::into_inner);
        page.map(|page| {
            let names = page.identities.iter().map(|identity| identity.principal.clone()).collect::<Vec<_>>();
            (names, page.next_page_token)
        })
    };
    let request = ListIdentitiesRequest::default;
    let (agent, entry, stranger) = ("spiffe://example.org/agent", "spiffe://example.org/ns/**", "spiffe://example.org/stranger");
    let (partner, subject) = ("spiffe://partner.org/robot", "https://as.example#robot");
    let days = |days: i64| Some(prost_types::Duration { seconds: days * 24 * 3600, nanos: 0 });
    for (request, expected) in [
        (request(), vec![subject, agent, entry, stranger, partner]),
        (ListIdentitiesRequest { unowned: true, ..request() }, vec![subject, entry, stranger]),
        (ListIdentitiesRequest { stale: true, ..request() }, vec![entry, stranger, partner]),
        (ListIdentitiesRequest { stale: true, stale_after: days(2), ..request() }, vec![subject, entry, stranger, partner]),
        (ListIdentitiesRequest { third_party: true, ..request() }, vec![partner]),
        (ListIdentitiesRequest { overdue: true, ..request() }, vec![subject]),
        (ListIdentitiesRequest { unregistered: true, ..request() }, vec![subject, stranger]),
        (ListIdentitiesRequest { unregistered: true, stale: true, ..request() }, vec![stranger]),
        (ListIdentitiesRequest { prefix: "spiffe://example.org/a".to_owned(), ..request() }, vec![agent]),
    ] {
        assert_eq!(
            list(request.clone()).await.unwrap(),
            (expected.iter().map(ToString::to_string).collect(), String::new()),
            "{request:?}"
        );
    }
    let (first, token) = list(ListIdentitiesRequest { page_size: 2, ..request() }).await.unwrap();
    assert_eq!((first.len(), token.as_str()), (2, agent));
    let (rest, token) = list(ListIdentitiesRequest { page_size: 3, page_token: token, ..request() }).await.unwrap();
    assert_eq!((rest, token), (vec![entry.to_owned(), stranger.to_owned(), partner.to_owned()], String::new()));
    for wrong in
        [ListIdentitiesRequest { page_size: -1, ..request() }, ListIdentitiesRequest { stale_after: days(-1), ..request() }]
    {
        assert_eq!(list(wrong).await.unwrap_err().code(), Code::InvalidArgument);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_identity_is_shown_with_what_it_never_did() {
    let api = start();
    let client = &mut InventoryServiceClient::new(api.channel());
    let mut show = async |principal: &str| {
        let request = ShowIdentityRequest { principal: principal.to_owned(), stale_after: None };
        client.show(request).await.map(tonic::Response::into_inner)
    };
    let agent = show("spiffe://example.org/agent").await.unwrap();
    assert_eq!(agent.unused_actions, ["elsewhere", "orders.write"]);
    assert_eq!((agent.actions[0].action.as_str(), agent.actions[0].count, agent.other_actions), ("orders.read", 1, 0));
    let identity = agent.identity.unwrap();
    assert_eq!((identity.findings, identity.unused_actions), (vec![], 2));
    let seen = identity.seen.unwrap();
    assert_eq!((seen.allowed, seen.actions, seen.overdue), (1, 1, None));
    assert_eq!((seen.credentials[0].kind.as_str(), seen.credentials[0].longest_lifetime.unwrap().seconds), ("x509_svid", 3600));
    let subject = show("https://as.example#robot").await.unwrap().identity.unwrap();
    assert_eq!(subject.findings, ["unowned", "unregistered", "overdue"]);
    assert_eq!(subject.seen.unwrap().overdue.unwrap().reasons, ["task_ended"]);
    let pattern = show("spiffe://example.org/ns/**").await.unwrap();
    assert_eq!(pattern.unused_actions, ["orders.read"]);
    assert!(pattern.identity.unwrap().seen.is_none());
    assert_eq!(show("spiffe://example.org/nobody").await.unwrap_err().code(), Code::NotFound);
    api.put(DECIDES, "package guard.control\n\ndefault allow := false\n");
    assert_eq!(show("spiffe://example.org/agent").await.unwrap_err().code(), Code::PermissionDenied);
    let calls = api.calls(5).await;
    let first = &calls[0];
    assert_eq!((&first["method"], &first["outcome"]), (&json!("doorward.v1.InventoryService/Show"), &json!("OK")));
    assert_eq!(first["request"], json!({"principal": "spiffe://example.org/agent"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_registry_is_shown_entry_by_entry() {
    let api = start();
    let client = &mut WorkloadServiceClient::new(api.channel());
    let mut get = async |spiffe_id: &str| {
        let answer = client.get(GetWorkloadRequest { spiffe_id: spiffe_id.to_owned() }).await;
        answer.map(|answer| answer.into_inner().workload.unwrap())
    };
    let agent = get("spiffe://example.org/agent").await.unwrap();
    assert_eq!((agent.owner.as_str(), agent.team.as_str(), agent.state.as_str(), agent.active), ("kim", "shop", "active", true));
    assert_eq!((agent.mode.as_str(), agent.limits["orders.read"], agent.allows.len()), ("enforce", 5, 2));
    let other = get("spiffe://example.org/ns/a/b").await.unwrap();
    assert_eq!(
        (other.entry.as_str(), other.allows[0].classes.as_slice()),
        ("spiffe://example.org/ns/**", ["read".to_owned()].as_slice())
    );
    for (id, code) in [
        ("spiffe://example.org/other", Code::NotFound),
        ("spiffe://example.org", Code::InvalidArgument),
        ("", Code::InvalidArgument),
    ] {
        assert_eq!(get(id).await.unwrap_err().code(), code, "{id}");
    }
    let mut list = async |page_size, page_token: &str, prefix: &str| {
        let request = ListWorkloadsRequest { page_size, page_token: page_token.to_owned(), prefix: prefix.to_owned() };
        let page = client.list(request).await.map(tonic::Response::into_inner);
        page.map(|page| (page.workloads.into_iter().map(|found| found.entry).collect::<Vec<_>>(), page.next_page_token))
    };
    let (first, second) = ("spiffe://example.org/agent".to_owned(), "spiffe://example.org/ns/**".to_owned());
    assert_eq!(list(2, "", "").await.unwrap(), (vec![first, second.clone()], second.clone()));
    assert_eq!(list(2, &second, "").await.unwrap(), (vec!["spiffe://partner.org/robot".to_owned()], String::new()));
    assert_eq!(list(0, "", "spiffe://example.org/n").await.unwrap().0, [second]);
    assert_eq!(list(-1, "", "").await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_says_what_is_in_force() {
    let api = start();
    let status = StatusServiceClient::new(api.channel()).get(GetStatusRequest {}).await.unwrap().into_inner();
    let policy = api.policies.current().unwrap();
    assert_eq!((status.policy_digest.as_str(), status.policy_revision.as_str()), (&**policy.digest(), &**policy.revision()));
    assert_eq!((status.instance.as_str(), status.mode.as_str(), status.ready), ("test-instance", "enforce", false));
    assert_eq!((status.obstacle.as_str(), status.durable, status.rev, status.log.len()), ("draining", true, 1, 36));
    assert_eq!((status.identities, status.revocations, status.sessions, status.streams), (3, 0, 0, 0));
    assert_eq!((status.alarms[0].about.as_str(), status.alarms[0].text.as_str()), ("policy", "refused"));
}
