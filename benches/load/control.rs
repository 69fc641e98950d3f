//! Fills the control state of a doorward over its own API, as operators and people would: so many revocations, and so many
//! grants, each asked for by one person and approved by another.

use std::path::Path;

use anyhow::Context;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::{net::UnixStream, task::JoinSet};
use tonic::{
    client::Grpc,
    transport::{Channel, Endpoint},
};

use crate::{
    token::Signer,
    traffic::{CALLER, CROWD},
};

/// Calls at a time.
const WORKERS: usize = 16;
/// What is granted to the caller of the traffic itself.
const OWN: usize = 1;

#[derive(Clone, Message)]
struct Selector {
    #[prost(string, tag = "1")]
    spiffe_id: String,
}

#[derive(Clone, Message)]
struct Revoke {
    #[prost(message, optional, tag = "2")]
    selector: Option<Selector>,
    #[prost(string, tag = "4")]
    reason: String,
}

#[derive(Clone, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    subject: String,
    #[prost(string, repeated, tag = "2")]
    actions: Vec<String>,
    #[prost(string, tag = "5")]
    task: String,
}

#[derive(Clone, Message)]
struct Request {
    #[prost(message, optional, tag = "2")]
    scope: Option<Scope>,
    #[prost(string, tag = "3")]
    reason: String,
}

#[derive(Clone, Message)]
struct Approve {
    #[prost(string, tag = "1")]
    id: String,
}

/// As much of an answer as names a grant.
#[derive(Clone, Message)]
struct Answer {
    #[prost(message, optional, tag = "1")]
    grant: Option<Approve>,
}

/// Makes `count` revocations of workloads that do not call, and as many grants.
pub(crate) async fn fill(socket: &Path, signer: &Signer, count: usize) -> anyhow::Result<()> {
    let path = socket.to_owned();
    let connect = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let channel =
        Endpoint::from_static("http://doorward").connect_with_connector(connect).await.context("connect to `control`")?;
    let (asks, approves) = (signer.person("alice")?, signer.person("bob")?);
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        let (channel, asks, approves) = (channel.clone(), asks.clone(), approves.clone());
        workers.spawn(async move {
            for number in (worker..count).step_by(WORKERS) {
                let selector = Some(Selector { spiffe_id: format!("{CROWD}revoked-{number}") });
                let revoke = Revoke { selector, reason: "bench".to_owned() };
                let _: Answer = call(&channel, "RevocationService/Revoke", revoke, &asks).await?;
                let (subject, task) = match number < OWN {
                    true => (CALLER.to_owned(), format!("task-{number}")),
                    false => (format!("{CROWD}granted-{number}"), String::new()),
                };
                let scope = Some(Scope { subject, actions: vec!["orders.write".to_owned()], task });
                let request = Request { scope, reason: "bench".to_owned() };
                let answer: Answer = call(&channel, "GrantService/Request", request, &asks).await?;
                let approve = answer.grant.context("a grant was asked for and not named")?;
                let _: Answer = call(&channel, "GrantService/Approve", approve, &approves).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker.context("a worker ended early")??;
    }
    Ok(())
}

async fn call<M, A>(channel: &Channel, method: &str, message: M, token: &str) -> anyhow::Result<A>
where
    M: Message + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
{
    let mut client = Grpc::new(channel.clone());
    client.ready().await.context("wait for `control`")?;
    let path = PathAndQuery::from_maybe_shared(format!("/doorward.v1.{method}")).context("name a method")?;
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().context("show a token")?);
    let answer = client.unary(request, path, tonic_prost::ProstCodec::default()).await;
    Ok(answer.with_context(|| format!("call {method}"))?.into_inner())
}
