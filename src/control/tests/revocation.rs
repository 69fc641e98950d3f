//! Revocations over our own API: made once, listed, and not taken back.

use super::{
    super::proto::v1::{
        self, ApproveRestoreRequest, ListRevocationsRequest, RestoreRequest, RevokeRequest,
        revocation_service_client::RevocationServiceClient, selector::What,
    },
    session::act,
    *,
};

const AGENT: &str = "spiffe://example.org/ns/shop/sa/agent";

fn revoke(what: What) -> RevokeRequest {
    let selector = Some(v1::Selector { what: Some(what) });
    RevokeRequest { selector, reason: "case 4711".to_owned(), ..RevokeRequest::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_revoked_has_a_receipt_and_is_listed() {
    let api = Api::start(OPEN, false);
    let client = &mut RevocationServiceClient::new(api.channel());
    let request = RevokeRequest { request_id: "r1".to_owned(), ..revoke(What::SpiffeId(AGENT.to_owned())) };
    let answer = client.revoke(request.clone()).await.unwrap().into_inner();
    let (revocation, receipt) = (answer.revocation.unwrap(), answer.receipt.unwrap());
    assert_eq!((revocation.rev, receipt.rev, receipt.applied[0].instance.as_str()), (2, 2, "test-instance"));
    assert!(!answer.repeated && !answer.volatile && receipt.applied[0].at.unwrap().seconds >= revocation.at.unwrap().seconds);
    let lives = revocation.expires_at.unwrap().seconds - revocation.at.unwrap().seconds;
    assert_eq!((lives, revocation.author), (30 * 24 * 3600, format!("uid {}", listener::own_uid().unwrap())));
    let again = client.revoke(request.clone()).await.unwrap().into_inner();
    assert!(again.repeated && again.revocation.unwrap().id == revocation.id);
    let other = client.revoke(RevokeRequest { reason: "other".to_owned(), ..request }).await;
    assert_eq!(other.unwrap_err().code(), Code::AlreadyExists);

    let broad = revoke(What::Prefix("spiffe://example.org/ns/shop".to_owned()));
    for id in [AGENT, "spiffe://example.org/ns/shop/sa/other", "spiffe://example.org/ns/shopping/sa/other"] {
        act(&api, &id.into()).await.unwrap();
    }
    let unconfirmed = client.revoke(broad.clone()).await.unwrap_err();
    assert_eq!(unconfirmed.code(), Code::InvalidArgument);
    assert!(unconfirmed.message().contains("2 principals") && unconfirmed.message().contains("--yes"), "{unconfirmed}");
    let confirmed = client.revoke(RevokeRequest { confirm: true, ..broad }).await.unwrap().into_inner();
    assert_eq!((confirmed.principals, confirmed.receipt.unwrap().rev), (2, 3));
    let domain = RevokeRequest { confirm: true, ..revoke(What::TrustDomain("other.org".to_owned())) };
    assert_eq!(client.revoke(domain).await.unwrap().into_inner().principals, 0);

    let mut list = async |request: ListRevocationsRequest| {
        let page = client.list(request).await.map(tonic::Response::into_inner);
        page.map(|page| (page.revocations.iter().map(|revocation| revocation.rev).collect::<Vec<_>>(), page.next_page_token))
    };
    let all = ListRevocationsRequest::default;
    assert_eq!(list(all()).await.unwrap(), (vec![2, 3, 4], String::new()));
    assert_eq!(list(ListRevocationsRequest { page_size: 2, ..all() }).await.unwrap(), (vec![2, 3], "3".to_owned()));
    let second = ListRevocationsRequest { page_size: 2, page_token: "3".to_owned(), ..all() };
    assert_eq!(list(second).await.unwrap(), (vec![4], String::new()));
    let of_agent = ListRevocationsRequest { spiffe_id: AGENT.to_owned(), ..all() };
    assert_eq!(list(of_agent).await.unwrap().0, [2, 3]);
    assert_eq!(list(ListRevocationsRequest { kind: "prefix".to_owned(), ..all() }).await.unwrap().0, [3]);
    for wrong in [
        ListRevocationsRequest { page_size: -1, ..all() },
        ListRevocationsRequest { page_token: "x".to_owned(), ..all() },
        ListRevocationsRequest { kind: "x".to_owned(), ..all() },
    ] {
        assert_eq!(list(wrong).await.unwrap_err().code(), Code::InvalidArgument);
    }
    let method = "doorward.v1.RevocationService/Revoke";
    let calls = || api.records("control").into_iter().filter(|call| call["method"] == method).collect::<Vec<_>>();
    until("the calls to be recorded", || calls().len() == 6).await;
    let first = &calls()[0];
    assert_eq!((&first["outcome"], &first["request"]["selector"]), (&json!("OK"), &json!({"spiffe_id": AGENT})));
    let detail = first["detail"].as_str().unwrap();
    assert!(detail.starts_with("rev 2, revocation ") && detail.contains(&revocation.id) && detail.ends_with("case 4711"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_in_order_revokes_nothing() {
    let api = Api::start(OPEN, false);
    let client = &mut RevocationServiceClient::new(api.channel());
    let good = || revoke(What::SpiffeId(AGENT.to_owned()));
    let span = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
    let instant = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    for (request, code) in [
        (RevokeRequest::default(), Code::InvalidArgument),
        (revoke(What::SpiffeId("spiffe://td".to_owned())), Code::InvalidArgument),
        (revoke(What::Certificate("ab".to_owned())), Code::InvalidArgument),
        (revoke(What::Task(String::new())), Code::InvalidArgument),
        (RevokeRequest { reason: String::new(), ..good() }, Code::InvalidArgument),
        (RevokeRequest { reason: "r".repeat(2000), ..good() }, Code::InvalidArgument),
        (RevokeRequest { request_id: "r".repeat(200), ..good() }, Code::InvalidArgument),
        (RevokeRequest { lifetime: span(0, 0), ..good() }, Code::InvalidArgument),
        (RevokeRequest { lifetime: span(-1, 0), ..good() }, Code::InvalidArgument),
        (RevokeRequest { lifetime: span(367 * 24 * 3600, 0), ..good() }, Code::InvalidArgument),
        (RevokeRequest { issued_before: instant(4_000_000_000), ..good() }, Code::InvalidArgument),
        (RevokeRequest { issued_before: instant(5), ..revoke(What::Session("0".repeat(16))) }, Code::InvalidArgument),
    ] {
        let refused = client.revoke(request.clone()).await.unwrap_err();
        assert_eq!(refused.code(), code, "{request:?}: {refused}");
    }
    assert!(api.control.revocations.current().is_empty());
    let file = api.folder.path().join("control.redb");
    fs::rename(&file, api.folder.path().join("away")).unwrap();
    let failed = client.revoke(good()).await.unwrap_err();
    assert!(failed.code() == Code::Unavailable && failed.message().contains("nothing was revoked"), "{failed}");
    assert!(api.control.revocations.current().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_at_the_socket_restores_whatever_the_policy_says() {
    let api = Api::start(OPEN, false);
    let client = &mut RevocationServiceClient::new(api.channel());
    let answer = client.revoke(revoke(What::SpiffeId(AGENT.to_owned()))).await.unwrap().into_inner();
    let id = answer.revocation.unwrap().id;
    let restore = |id: &str| RestoreRequest { id: id.to_owned(), reason: "why".to_owned() };
    for id in [id.as_str(), "x", &Uuid::nil().to_string()] {
        let refused = client.restore(restore(id)).await.unwrap_err();
        assert!(refused.code() == Code::FailedPrecondition && refused.message().contains("only a person"), "{refused}");
    }
    assert_eq!(client.approve_restore(ApproveRestoreRequest::default()).await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(api.control.revocations.current().len(), 1);
    api.put(DECIDES, "package guard.control\n\ndefault allow := false\n");
    assert_eq!(client.restore(restore(&id)).await.unwrap_err().code(), Code::PermissionDenied);
    let refused = client.revoke(revoke(What::Owner("eve".to_owned()))).await.unwrap_err();
    assert_eq!((refused.code(), api.control.revocations.current().len()), (Code::PermissionDenied, 1));
    let calls = api.calls(7).await;
    let asked = calls.iter().find(|call| call["method"] == "doorward.v1.RevocationService/Restore").unwrap();
    assert_eq!((&asked["request"]["id"], &asked["outcome"]), (&json!(id), &json!("FAILED_PRECONDITION")));
}
