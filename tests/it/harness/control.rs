//! Doorward's own API, called with whatever bytes and headers a test makes up, over its socket and over TLS.

use std::{
    convert::Infallible,
    io,
    path::Path,
    sync::{Arc, LazyLock},
    time::Duration,
};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{PATIENCE, ca::Leaf};

static DESCRIPTORS: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(include_bytes!(concat!(env!("OUT_DIR"), "/doorward.bin")).as_slice()).unwrap());

pub type Body = BoxBody<Bytes, Infallible>;

/// One connection.
#[derive(Clone)]
pub struct Caller(SendRequest<Body>);

/// What was answered.
#[derive(Debug)]
pub struct Told {
    pub http: u16,
    /// The gRPC status; none where there was none.
    pub code: Option<i32>,
    pub text: String,
    body: Bytes,
}

impl Told {
    pub fn is_ok(&self) -> bool {
        self.http == 200 && self.code == Some(0)
    }

    /// The answer of a unary call, a message of this name.
    pub fn read(&self, name: &str) -> Value {
        let descriptor = DESCRIPTORS.get_message_by_name(&format!("doorward.v1.{name}")).unwrap();
        let message = DynamicMessage::decode(descriptor, &self.body[5..]).unwrap();
        let options = SerializeOptions::new().use_proto_field_name(true).stringify_64_bit_integers(false);
        message.serialize_with_options(serde_json::value::Serializer, &options).unwrap()
    }
}

impl Caller {
    pub async fn unix(path: &Path) -> io::Result<Self> {
        Self::over(UnixStream::connect(path).await?).await
    }

    pub async fn tls(address: &str, ca: &str, leaf: Option<&Leaf>) -> io::Result<Self> {
        Self::over(shake_hands(address, ca, leaf).await?).await
    }

    async fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> io::Result<Self> {
        let shaken = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (sender, connection) = shaken.map_err(io::Error::other)?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    /// A call as a client makes it. Of a stream only the beginning is looked at.
    pub async fn call(&self, method: &str, authorization: &[&str], body: Bytes) -> io::Result<Told> {
        let mut request = Request::post(format!("http://doorward/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for value in authorization {
            request = request.header("authorization", *value);
        }
        self.send(request.body(Full::new(body).boxed()).unwrap()).await
    }

    pub async fn send(&self, request: Request<Body>) -> io::Result<Told> {
        let is_stream = ["/Follow", "/Watch"].iter().any(|name| request.uri().path().ends_with(name));
        let response = tokio::time::timeout(PATIENCE, self.begin(request)).await.map_err(io::Error::other)??;
        let http = response.status().as_u16();
        let status = |headers: &http::HeaderMap| {
            let code = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
            Some((code, headers.get("grpc-message").map_or(String::new(), |text| text.to_str().unwrap_or_default().to_owned())))
        };
        let early = status(response.headers());
        if early.is_some() || is_stream || http != 200 {
            let (code, text) = early.map_or((is_stream.then_some(0), String::new()), |(code, text)| (Some(code), text));
            return Ok(Told { http, code, text, body: Bytes::new() });
        }
        let collected = tokio::time::timeout(PATIENCE, response.into_body().collect()).await;
        let collected = collected.map_err(io::Error::other)?.map_err(io::Error::other)?;
        let late = collected.trailers().and_then(status);
        let (code, text) = late.map_or((None, String::new()), |(code, text)| (Some(code), text));
        Ok(Told { http, code, text, body: collected.to_bytes() })
    }

    /// The beginning of an answer; its body stays open.
    pub async fn begin(&self, request: Request<Body>) -> io::Result<Response<Incoming>> {
        let mut sender = self.0.clone();
        sender.ready().await.map_err(io::Error::other)?;
        sender.send_request(request).await.map_err(io::Error::other)
    }
}

/// A TLS connection, and nothing said over it.
pub async fn shake_hands(address: &str, ca: &str, leaf: Option<&Leaf>) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    CertificateDer::pem_slice_iter(ca.as_bytes()).for_each(|certificate| roots.add(certificate.unwrap()).unwrap());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let mut config = match leaf {
        None => builder.with_no_client_auth(),
        Some(leaf) => {
            let chain = CertificateDer::pem_slice_iter(leaf.certificate.as_bytes()).map(Result::unwrap).collect();
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap()).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(address.trim_start_matches("tcp://")).await?;
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let shaken = tokio::time::timeout(Duration::from_secs(10), TlsConnector::from(Arc::new(config)).connect(name, stream));
    shaken.await.map_err(io::Error::other)?
}

/// All methods, as `doorward.v1.Service/Method`.
pub fn methods() -> Vec<String> {
    let services = DESCRIPTORS.services();
    services
        .flat_map(|service| {
            service.methods().map(|method| format!("{}/{}", service.full_name(), method.name())).collect::<Vec<_>>()
        })
        .collect()
}

/// The bytes of a message, by its name and its JSON form.
pub fn message(name: &str, value: Value) -> Bytes {
    let descriptor = DESCRIPTORS.get_message_by_name(&format!("doorward.v1.{name}")).unwrap();
    framed(&DynamicMessage::deserialize(descriptor, value).unwrap().encode_to_vec())
}

/// The request of a method, `Service/Method`, by its JSON form.
pub fn request_of(method: &str, value: Value) -> Bytes {
    let (service, name) = method.split_once('/').unwrap();
    let service = DESCRIPTORS.get_service_by_name(&format!("doorward.v1.{service}")).unwrap();
    let found = service.methods().find(|method| method.name() == name).unwrap();
    message(found.input().name(), value)
}

/// Bytes as gRPC frames a message.
pub fn framed(bytes: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(bytes.len() + 5);
    frame.put_u8(0);
    frame.put_u32(bytes.len().try_into().unwrap());
    frame.put_slice(bytes);
    frame.freeze()
}
