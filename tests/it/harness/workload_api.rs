//! A Workload API for tests, over a Unix socket: says what a test tells it to say, to every stream at once. Real SPIRE is
//! not among the peers, so an independent client checks this double (`real_trust`).

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::stream::{BoxStream, StreamExt as _, unfold};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::{Value, json};
use tokio::{net::UnixListener, runtime::Runtime, sync::watch};
use tonic::{
    Request, Response, Status,
    body::Body,
    server::{Grpc, NamedService},
};
use tonic_prost::ProstCodec;

use super::ca::{Ca, Leaf};

/// What is said. Nothing is, before a test says something.
#[derive(Clone, Default)]
pub struct Said {
    /// SPIFFE ID, certificate and key.
    pub svid: Option<(String, Vec<u8>, Vec<u8>)>,
    /// Trust domain to its roots, one DER after the other.
    pub bundles: BTreeMap<String, Vec<u8>>,
    /// Trust domain to its JWKS.
    pub jwt: BTreeMap<String, Value>,
    /// There is nothing for this workload.
    pub denied: bool,
}

impl Said {
    /// Makes the roots of `domain` these.
    pub fn roots(&mut self, domain: &str, roots: &[&Ca]) {
        let der = roots.iter().flat_map(|root| CertificateDer::from_pem_slice(root.pem.as_bytes()).unwrap().to_vec());
        self.bundles.insert(domain.to_owned(), der.collect());
    }

    pub fn svid(&mut self, id: &str, leaf: &Leaf) {
        let chain = CertificateDer::pem_slice_iter(leaf.certificate.as_bytes()).flat_map(|der| der.unwrap().to_vec());
        let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
        self.svid = Some((id.to_owned(), chain.collect(), key.secret_der().to_vec()));
    }

    /// Makes a fresh key with this id the one of `domain`.
    pub fn jwt_key(&mut self, domain: &str, kid: &str) {
        let key = rcgen::KeyPair::generate().unwrap();
        let raw = rcgen::PublicKeyData::der_bytes(&key).to_vec();
        let coordinate = |range| base64::Engine::encode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, &raw[range]);
        let key = json!({"kty": "EC", "crv": "P-256", "kid": kid, "x": coordinate(1..33), "y": coordinate(33..65)});
        self.jwt.insert(domain.to_owned(), json!({"keys": [key]}));
    }
}

/// A running Workload API; gone, with all its connections, when dropped.
pub struct WorkloadApi {
    pub socket: PathBuf,
    said: watch::Sender<Said>,
    runtime: Option<Runtime>,
}

impl WorkloadApi {
    pub fn start(socket: &Path) -> Self {
        let mut api = Self { socket: socket.to_owned(), said: watch::Sender::default(), runtime: None };
        api.start_again();
        api
    }

    pub fn say(&self, change: impl FnOnce(&mut Said)) {
        self.said.send_modify(change);
    }

    /// The line that leads to it, for `trust` in a configuration.
    pub fn line(&self) -> String {
        format!("workload_api: unix://{}", self.socket.display())
    }

    /// Cuts every connection and takes no new one.
    pub fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    pub fn start_again(&mut self) {
        self.stop();
        let _ = std::fs::remove_file(&self.socket);
        let listener = std::os::unix::net::UnixListener::bind(&self.socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let service = Service(self.said.clone());
        runtime.spawn(async move {
            let incoming = tokio_stream::wrappers::UnixListenerStream::new(UnixListener::from_std(listener).unwrap());
            tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await
        });
        self.runtime = Some(runtime);
    }
}

impl Drop for WorkloadApi {
    fn drop(&mut self) {
        self.stop();
    }
}

#[derive(Clone)]
struct Service(watch::Sender<Said>);

impl NamedService for Service {
    const NAME: &'static str = "SpiffeWorkloadAPI";
}

impl tower::Service<http::Request<Body>> for Service {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let said = self.0.clone();
        Box::pin(async move {
            // Without it the request may have been smuggled in by somebody else (SPIFFE Workload Endpoint §3.2).
            if request.headers().get("workload.spiffe.io").is_none_or(|value| value != "true") {
                return Ok(Status::invalid_argument("security header missing from request").into_http());
            }
            Ok(match request.uri().path() {
                "/SpiffeWorkloadAPI/FetchX509SVID" => stream(said, request, svids).await,
                "/SpiffeWorkloadAPI/FetchX509Bundles" => stream(said, request, bundles).await,
                "/SpiffeWorkloadAPI/FetchJWTBundles" => stream(said, request, jwt_bundles).await,
                _ => Status::unimplemented("not of this double").into_http(),
            })
        })
    }
}

/// A message now, where there is one, and whenever something else is said.
async fn stream<M: prost::Message + Default + PartialEq + 'static>(
    said: watch::Sender<Said>,
    request: http::Request<Body>,
    message: fn(&Said) -> Option<M>,
) -> http::Response<Body> {
    let service = tower::service_fn(move |_: Request<Empty>| {
        let mut said = said.subscribe();
        said.mark_changed();
        async move {
            let messages: BoxStream<'static, Result<M, Status>> = unfold(Some(said), move |said| async move {
                let mut said = said?;
                loop {
                    said.changed().await.ok()?;
                    let now = said.borrow_and_update().clone();
                    if now.denied {
                        return Some((Err(Status::permission_denied("no identity issued")), None));
                    }
                    if let Some(message) = message(&now) {
                        return Some((Ok(message), Some(said)));
                    }
                }
            })
            .boxed();
            Ok::<_, Status>(Response::new(messages))
        }
    });
    Grpc::new(ProstCodec::<M, Empty>::default()).server_streaming(service, request).await
}

fn svids(said: &Said) -> Option<X509SvidResponse> {
    let (spiffe_id, x509_svid, x509_svid_key) = said.svid.clone()?;
    let domain = spiffe_id.trim_start_matches("spiffe://").split('/').next().unwrap_or_default().to_owned();
    let bundle = said.bundles.get(&domain)?.clone();
    let federated_bundles = bundles_by_id(said).into_iter().filter(|(id, _)| *id != format!("spiffe://{domain}")).collect();
    Some(X509SvidResponse { svids: vec![X509Svid { spiffe_id, x509_svid, x509_svid_key, bundle }], federated_bundles })
}

fn bundles(said: &Said) -> Option<X509BundlesResponse> {
    (!said.bundles.is_empty()).then(|| X509BundlesResponse { bundles: bundles_by_id(said) })
}

fn jwt_bundles(said: &Said) -> Option<JwtBundlesResponse> {
    let bundles = said.jwt.iter().map(|(domain, keys)| (format!("spiffe://{domain}"), keys.to_string().into_bytes()));
    (!said.jwt.is_empty()).then(|| JwtBundlesResponse { bundles: bundles.collect() })
}

fn bundles_by_id(said: &Said) -> HashMap<String, Vec<u8>> {
    said.bundles.iter().map(|(domain, der)| (format!("spiffe://{domain}"), der.clone())).collect()
}

// The messages of `workload.proto` (SPIFFE Workload API, appendix A), as far as they are used.

#[derive(Clone, PartialEq, prost::Message)]
struct Empty {}

#[derive(Clone, PartialEq, prost::Message)]
struct X509SvidResponse {
    #[prost(message, repeated, tag = "1")]
    svids: Vec<X509Svid>,
    #[prost(map = "string, bytes", tag = "3")]
    federated_bundles: HashMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct X509Svid {
    #[prost(string, tag = "1")]
    spiffe_id: String,
    #[prost(bytes = "vec", tag = "2")]
    x509_svid: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    x509_svid_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    bundle: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct X509BundlesResponse {
    #[prost(map = "string, bytes", tag = "2")]
    bundles: HashMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct JwtBundlesResponse {
    #[prost(map = "string, bytes", tag = "1")]
    bundles: HashMap<String, Vec<u8>>,
}
