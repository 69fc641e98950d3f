//! Sessions over our own API: pages and selections, one with its path, and the end of one.

use super::{
    super::proto::v1::{
        EndSessionRequest, ListSessionsRequest, ListSessionsResponse, ShowSessionRequest,
        session_service_client::SessionServiceClient,
    },
    *,
};
use crate::{
    session::{self, Key, Source, Step, Who},
    verdict::{Class, Decision, Reason},
};

/// An action that was allowed.
pub(super) async fn act(api: &Api, principal: &Arc<str>) -> Result<(), Reason> {
    let (key, now) = (Key { source: Source::Certificate, id: "ab12".into() }, clock::now());
    let who = Who { principal, key: &key, id: session::id(principal, &key), environment: None, zone: None, issuer: None };
    let step = Step { who, entry: None, class: Class::Read, resource_hash: 7, wants_view: false, sole: true, now };
    let stepped = api.sessions.step(&step).await?;
    api.sessions.outcome(stepped.intent, Decision::Allow, now);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_listed_in_pages_shown_and_ended() {
    let api = Api::start(OPEN, false);
    let principals: Vec<Arc<str>> = (0..5).map(|number| format!("spiffe://example.org/w{number}").into()).collect();
    for principal in &principals {
        act(&api, principal).await.unwrap();
    }
    api.sessions.label(&principals[3], &["data:customer".into()], clock::now());
    let client = &mut SessionServiceClient::new(api.channel());
    let (mut seen, mut page_token) = (Vec::new(), String::new());
    for size in [2, 2, 1] {
        let page = client.list(ListSessionsRequest { page_size: 2, page_token, ..ListSessionsRequest::default() }).await.unwrap();
        let ListSessionsResponse { sessions, next_page_token } = page.into_inner();
        assert_eq!((sessions.len(), next_page_token.is_empty()), (size, size == 1));
        seen.extend(sessions);
        page_token = next_page_token;
    }
    assert!(seen.is_sorted_by(|a, b| a.id < b.id), "{seen:?}");
    let mut list = async |request: ListSessionsRequest| {
        let found = client.list(request).await.map(|page| page.into_inner().sessions);
        found.map(|sessions| sessions.into_iter().map(|session| session.principal).collect::<Vec<_>>())
    };
    let request = ListSessionsRequest::default;
    let all =
        ListSessionsRequest { source: "certificate".to_owned(), principal: "spiffe://example.org/*".to_owned(), ..request() };
    assert_eq!(list(all).await.unwrap().len(), 5);
    let labelled = list(ListSessionsRequest { label: "data:customer".to_owned(), ..request() }).await.unwrap();
    assert_eq!(labelled, [principals[3].to_string()]);
    assert_eq!(list(ListSessionsRequest { source: "txn".to_owned(), ..request() }).await.unwrap(), [""; 0]);
    for wrong in
        [ListSessionsRequest { page_size: -1, ..request() }, ListSessionsRequest { page_token: "x".to_owned(), ..request() }]
    {
        assert_eq!(list(wrong).await.unwrap_err().code(), Code::InvalidArgument);
    }

    let id = seen.iter().find(|session| *session.principal == *principals[3]).unwrap().id.clone();
    let shown = client.show(ShowSessionRequest { id: id.clone() }).await.unwrap().into_inner();
    let session = shown.session.unwrap();
    assert_eq!((session.actions, session.ended, session.key.as_str()), (1, false, "ab12"));
    assert_eq!(shown.principal.unwrap().labels, ["data:customer"]);
    let past = &shown.behaviour.unwrap().path[0];
    assert_eq!((past.decision.as_str(), past.class.as_str(), past.resource_hash.as_str()), ("allow", "read", "0000000000000007"));
    let ended = client.end(EndSessionRequest { id: id.clone(), reason: "why".to_owned() }).await.unwrap().into_inner();
    assert!(ended.session.unwrap().ended);
    assert_eq!(act(&api, &principals[3]).await.unwrap_err(), Reason::SessionEnded);
    for (id, code) in
        [("0000000000000000", Code::NotFound), ("7", Code::InvalidArgument), ("+000000000000000", Code::InvalidArgument)]
    {
        let id = id.to_owned();
        assert_eq!(client.show(ShowSessionRequest { id: id.clone() }).await.unwrap_err().code(), code, "{id}");
        assert_eq!(client.end(EndSessionRequest { id, reason: String::new() }).await.unwrap_err().code(), code);
    }
    let method = "doorward.v1.SessionService/End";
    let ends = || api.records("control").into_iter().filter(|call| call["method"] == method).collect::<Vec<_>>();
    until("the ends to be recorded", || ends().len() == 4).await;
    assert_eq!((&ends()[0]["request"], &ends()[0]["outcome"]), (&json!({"id": id, "reason": "why"}), &json!("OK")));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_only_look_ends_nothing() {
    let policy =
        "package guard.control\n\ndefault allow := false\n\nallow if input.method == \"doorward.v1.SessionService/List\"\n";
    let api = Api::start(policy, false);
    let principal: Arc<str> = "spiffe://example.org/victim".into();
    act(&api, &principal).await.unwrap();
    let client = &mut SessionServiceClient::new(api.channel());
    let listed = client.list(ListSessionsRequest::default()).await.unwrap().into_inner().sessions;
    let ended = client.end(EndSessionRequest { id: listed[0].id.clone(), reason: String::new() }).await;
    assert_eq!(ended.unwrap_err().code(), Code::PermissionDenied);
    act(&api, &principal).await.unwrap();
    let calls = api.calls(2).await;
    assert_eq!((&calls[1]["decision"], &calls[1]["outcome"]), (&json!("deny"), &json!("PERMISSION_DENIED")));
}
