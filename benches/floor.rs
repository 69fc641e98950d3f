//! The floor: a tonic server that allows every Check without looking at it. What it costs is what gRPC over a Unix
//! socket costs, and no authorizer in this language can be cheaper; `load` compares doorward with it.

use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use envoy_types::pb::{
    envoy::service::auth::v3::{
        CheckRequest, CheckResponse, OkHttpResponse,
        authorization_server::{Authorization, AuthorizationServer},
        check_response::HttpResponse,
    },
    google::rpc,
};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, transport::Server};

#[derive(Parser)]
struct Args {
    /// Path of the Unix socket to listen on. Without it there is nothing to do: `benches/run.sh` runs this.
    #[arg(long)]
    socket: Option<PathBuf>,
    /// What `cargo bench` passes.
    #[arg(long, hide = true)]
    bench: bool,
}

struct AllowAll;

#[tonic::async_trait]
impl Authorization for AllowAll {
    async fn check(&self, _: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        Ok(Response::new(CheckResponse {
            status: Some(rpc::Status::default()),
            dynamic_metadata: None,
            http_response: Some(HttpResponse::OkResponse(OkHttpResponse::default())),
        }))
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Some(socket) = Args::parse().socket else { return Ok(()) };
    let listener = UnixListener::bind(&socket).with_context(|| format!("bind `{}`", socket.display()))?;
    Server::builder()
        .add_service(AuthorizationServer::new(AllowAll))
        .serve_with_incoming(UnixListenerStream::new(listener))
        .await
        .context("serve")
}
