//! Clients with and without a certificate, over TLS, in HTTP/1.1 and HTTP/2.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, body::Incoming, client::conn::http2::SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::ca::{Ca, Leaf};

/// Which HTTP a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Http {
    One,
    Two,
}

/// A workload that calls through Envoy.
#[derive(Clone)]
pub struct Client {
    tls: Arc<ClientConfig>,
    address: SocketAddr,
    http: Http,
}

/// An answer, its body read.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub trailers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect()
    }

    /// The decision id of a denial.
    pub fn decision(&self) -> &str {
        self.header("x-doorward-decision-id").unwrap_or_else(|| panic!("no decision id in {self:?}"))
    }
}

impl Client {
    /// A client that shows `leaf`, or nothing.
    pub fn new(address: SocketAddr, ca: &Ca, leaf: Option<&Leaf>, http: Http) -> Self {
        Self::trusting(address, &[ca], leaf, http)
    }

    /// The same, with several authorities that the server's certificate may come from.
    pub fn trusting(address: SocketAddr, authorities: &[&Ca], leaf: Option<&Leaf>, http: Http) -> Self {
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut tls = match leaf {
            Some(leaf) => {
                let chain = CertificateDer::pem_slice_iter(leaf.certificate.as_bytes()).map(Result::unwrap).collect();
                let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        tls.alpn_protocols = vec![if http == Http::One { b"http/1.1".to_vec() } else { b"h2".to_vec() }];
        Self { tls: Arc::new(tls), address, http }
    }

    /// A fresh TLS connection.
    pub async fn connect(&self) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        TlsConnector::from(Arc::clone(&self.tls)).connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap()
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(request("GET", path).body(Full::default()).unwrap()).await
    }

    pub async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        self.try_send(request).await.unwrap()
    }

    /// One request over a connection of its own.
    pub async fn try_send(&self, request: Request<Full<Bytes>>) -> hyper::Result<Answer> {
        let io = TokioIo::new(self.connect().await);
        let response = match self.http {
            Http::One => {
                let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
                tokio::spawn(connection);
                sender.send_request(request).await?
            }
            Http::Two => {
                let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
                tokio::spawn(connection);
                sender.send_request(request).await?
            }
        };
        read(response).await
    }

    /// One HTTP/2 connection that stays open.
    pub async fn session(&self) -> Session {
        let io = TokioIo::new(self.connect().await);
        let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        Session(sender)
    }

    /// Writes raw bytes of HTTP/1.1 and leaves the stream to the caller.
    pub async fn raw(&self, bytes: &[u8]) -> TlsStream<TcpStream> {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        stream
    }
}

/// An open connection.
pub struct Session(SendRequest<Full<Bytes>>);

impl Session {
    pub async fn get(&mut self, path: &str) -> Answer {
        self.0.ready().await.unwrap();
        read(self.0.send_request(request("GET", path).body(Full::default()).unwrap()).await.unwrap()).await.unwrap()
    }
}

/// A request for `path` at the authority that the tests' Envoy serves.
pub fn request(method: &str, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(format!("https://localhost{path}")).header("host", "localhost")
}

async fn read(response: hyper::Response<Incoming>) -> hyper::Result<Answer> {
    let (parts, body) = response.into_parts();
    let collected = body.collect().await?;
    let texts = |map: &hyper::HeaderMap| -> Vec<(String, String)> {
        map.iter().map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())).collect()
    };
    let trailers = collected.trailers().map(texts).unwrap_or_default().into_iter().collect();
    Ok(Answer { status: parts.status.as_u16(), headers: texts(&parts.headers), trailers, body: collected.to_bytes().to_vec() })
}
