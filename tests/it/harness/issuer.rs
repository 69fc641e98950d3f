//! A token issuer on loopback: it signs with a key of its own and serves its JWKS, in all the ways in which such an
//! endpoint goes wrong.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Response, service::service_fn};
use hyper_util::rt::TokioIo;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use rcgen::KeyPair;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// An ES256 key with its id.
pub struct Signer {
    id: String,
    pair: KeyPair,
}

impl Signer {
    pub fn new(id: &str) -> Self {
        Self { id: id.to_owned(), pair: KeyPair::generate().unwrap() }
    }

    pub fn jwk(&self) -> Value {
        let point = &self.pair.public_key_raw()[1..];
        let encode = |bytes| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let (x, y) = (encode(&point[..32]), encode(&point[32..]));
        json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.id, "x": x, "y": y})
    }

    /// A token of type `kind` with these claims, besides a minute of life from now.
    pub fn sign(&self, kind: &str, claims: &Value) -> String {
        let mut all = json!({"iat": now(), "exp": now() + 60, "jti": uuid()});
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        self.signed(&json!({"alg": "ES256", "kid": self.id, "typ": kind}), &all)
    }

    /// A proof that whoever makes the request has this key, and `token` if it sends one (RFC 9449 §4.2).
    pub fn proof(&self, method: &str, address: &str, token: Option<&str>) -> String {
        let mut claims = json!({"iat": now(), "jti": uuid(), "htm": method, "htu": address});
        if let Some(token) = token {
            let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
            claims["ath"] = json!(BASE64_URL_SAFE_NO_PAD.encode(hash));
        }
        self.signed(&json!({"alg": "ES256", "typ": "dpop+jwt", "jwk": self.jwk()}), &claims)
    }

    /// A token with this header and these claims alone.
    pub fn signed(&self, header: &Value, claims: &Value) -> String {
        let encode = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(header), encode(claims));
        let key = EncodingKey::from_ec_der(&self.pair.serialize_der());
        format!("{signed}.{}", crypto::sign(signed.as_bytes(), &key, Algorithm::ES256).unwrap())
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn uuid() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed).to_string()
}

/// What the endpoint answers.
#[derive(Clone)]
pub enum Serves {
    Keys(Vec<Value>),
    Text(Bytes),
    Error,
    /// It accepts and says nothing.
    Nothing,
}

pub struct Issuer {
    pub address: SocketAddr,
    serves: Arc<Mutex<Serves>>,
    asked: Arc<AtomicUsize>,
}

impl Issuer {
    /// The configuration that takes this issuer's access tokens for `orders`, under the name `https://as.example`.
    pub fn tokens(&self) -> String {
        format!(
            "tokens:\n  issuers:\n  - issuer: https://as.example\n    kind: access_token\n    audiences: [orders]\n    \
             keys: {{url: 'http://{}/jwks', refresh: 1s, min_interval: 1s, timeout: 500ms}}\n",
            self.address
        )
    }

    pub async fn start(serves: Serves) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (serves, asked) = (Arc::new(Mutex::new(serves)), Arc::new(AtomicUsize::new(0)));
        let (answers, counter) = (Arc::clone(&serves), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answers, counter) = (Arc::clone(&answers), Arc::clone(&counter));
                let service = service_fn(move |_| {
                    counter.fetch_add(1, Ordering::Relaxed);
                    let answer = answers.lock().unwrap().clone();
                    async move { Ok::<_, Infallible>(answer_of(answer).await) }
                });
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, serves, asked }
    }

    pub fn serve(&self, what: Serves) {
        *self.serves.lock().unwrap() = what;
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

async fn answer_of(serves: Serves) -> Response<Full<Bytes>> {
    let (status, body) = match serves {
        Serves::Keys(keys) => (200, json!({ "keys": keys }).to_string().into()),
        Serves::Text(text) => (200, text),
        Serves::Error => (500, Bytes::new()),
        Serves::Nothing => std::future::pending().await,
    };
    Response::builder().status(status).body(Full::new(body)).unwrap()
}
