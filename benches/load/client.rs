//! One HTTP/2 connection with many requests on it: to an authorizer's socket, asking Checks as Envoy does, or to
//! Envoy over mTLS, making the calls themselves.

use std::{net::SocketAddr, path::Path, sync::Arc};

use anyhow::{Context, bail};
use bytes::{Buf, Bytes};
use envoy_types::pb::google::protobuf::{Struct, value::Kind};
use http_body_util::{BodyExt, Full};
use hyper::{Request, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use rustls_pki_types::{PrivateKeyDer, ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs},
};

use crate::{
    mesh::{Mesh, Svid},
    traffic::{self, AUTHORITY, Call, PREFIX},
};

const CHECK: &str = "http://authorizer/envoy.service.auth.v3.Authorization/Check";
const PROCESS: &str = "http://authorizer/envoy.service.ext_proc.v3.ExternalProcessor/Process";

/// A connection; a clone is the same connection.
#[derive(Clone)]
pub(crate) struct Client {
    sender: http2::SendRequest<Full<Bytes>>,
    asks: Asks,
}

#[derive(Clone, Copy)]
enum Asks {
    Checks,
    Calls,
}

/// As much of a CheckResponse as says whether it allows: reading more would cost the machine more than the server.
#[derive(Message)]
struct Answer {
    #[prost(message, optional, tag = "1")]
    status: Option<Status>,
    #[prost(message, optional, tag = "4")]
    dynamic_metadata: Option<Struct>,
}

#[derive(Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
}

impl Client {
    /// To an authorizer.
    pub(crate) async fn to_socket(path: &Path) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(path).await.with_context(|| format!("connect to `{}`", path.display()))?;
        Self::on(stream, Asks::Checks).await
    }

    /// To Envoy, as the workload that `svid` belongs to.
    pub(crate) async fn to_envoy(address: SocketAddr, mesh: &Mesh, svid: &Svid) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(mesh.root().der().clone()).context("trust the authority")?;
        let key = PrivateKeyDer::try_from(svid.key.serialize_der()).map_err(|error| anyhow::anyhow!("read our key: {error}"))?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .context("choose TLS versions")?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![svid.certificate.der().clone()], key)
            .context("use our certificate")?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(address).await.with_context(|| format!("connect to `{address}`"))?;
        stream.set_nodelay(true).context("send at once")?;
        let name = ServerName::IpAddress(address.ip().into());
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.context("shake hands with Envoy")?;
        Self::on(stream, Asks::Calls).await
    }

    async fn on(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, asks: Asks) -> anyhow::Result<Self> {
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.context("start the HTTP/2 connection")?;
        // A connection that breaks fails the requests on it, which say so.
        tokio::spawn(connection);
        Ok(Self { sender, asks })
    }

    /// Whether the call was allowed.
    pub(crate) async fn ask(&mut self, call: &Call) -> anyhow::Result<bool> {
        match self.asks {
            Asks::Checks => self.check(call).await,
            Asks::Calls => self.call(call).await,
        }
    }

    async fn check(&mut self, call: &Call) -> anyhow::Result<bool> {
        let message = self.unary(CHECK, call.check.clone()).await?;
        let answer = Answer::decode(message).context("decode an answer")?;
        let allowed = answer.status.is_none_or(|status| status.code == 0);
        if allowed && call.is_stream {
            let fields = answer.dynamic_metadata.unwrap_or_default().fields;
            let id = fields.get("decision_id").and_then(|value| value.kind.as_ref());
            let Some(Kind::StringValue(id)) = id else { bail!("an answer without a decision id") };
            self.unary(PROCESS, traffic::holding(id)).await?;
        }
        Ok(allowed)
    }

    /// One message there, one back.
    async fn unary(&mut self, method: &str, message: Bytes) -> anyhow::Result<Bytes> {
        let request = Request::post(method)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("grpc-timeout", "200m")
            .body(Full::new(message))?;
        let response = self.sender.send_request(request).await.context("send a message")?;
        let status = response.headers().get("grpc-status").cloned();
        let body = response.into_body().collect().await.context("receive an answer")?;
        let status = status.or_else(|| body.trailers()?.get("grpc-status").cloned());
        if status.as_ref().is_none_or(|status| status != "0") {
            bail!("`{method}` ended with gRPC status {status:?}");
        }
        let mut message = body.to_bytes();
        if message.len() < PREFIX {
            bail!("an answer of {} bytes is no gRPC message", message.len());
        }
        message.advance(PREFIX);
        Ok(message)
    }

    async fn call(&mut self, call: &Call) -> anyhow::Result<bool> {
        let mut request = Request::builder().method(call.method).uri(format!("https://{AUTHORITY}{}", call.path));
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        let response = self.sender.send_request(request.body(Full::default())?).await.context("send a call")?;
        let status = response.status().as_u16();
        response.into_body().collect().await.context("receive the body")?;
        match status {
            200 => Ok(true),
            403 => Ok(false),
            other => bail!("a call ended with HTTP status {other}"),
        }
    }
}
