//! One request for a bundle: over TLS to the server that is meant and to no other, with what proves who we are, within
//! limits of time and size.

use std::{fs, io, path::PathBuf};

use bytes::{Bytes, BytesMut};
use reqwest::{
    Certificate, Client, Identity, StatusCode,
    header::{ETAG, HeaderValue, IF_NONE_MATCH},
    redirect,
};

use crate::config::Download;

/// Longest entity tag that is worth keeping.
const MAX_ETAG: usize = 1024;
const MAX_REDIRECTS: usize = 5;

/// What the server had to say.
pub(super) enum Answer {
    Unchanged,
    Bundle { bytes: Bytes, etag: Option<String> },
}

/// Why there is no bundle. No text quotes a token, a key or the query of an address.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    #[error("`{}` cannot be read: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    #[error("`{}` holds nothing that can be used; check its form", path.display())]
    Unusable { path: PathBuf },
    #[error("no request can be made: {0}")]
    Setup(String),
    #[error("the server did not answer as it should: {0}")]
    Failed(String),
    #[error("the server answered {0}; check address and token")]
    Status(StatusCode),
    #[error("the answer is larger than {0} bytes; raise `policy.limits.total`")]
    TooLarge(usize),
}

/// Asks for the bundle, unless it is still the one of `etag`.
pub(super) async fn send(download: &Download, etag: Option<&str>, limit: usize) -> Result<Answer, RequestError> {
    let mut request = client(download)?.get(download.url.clone());
    if let Some(path) = &download.token_file {
        let token = read(path)?;
        let token = std::str::from_utf8(token.trim_ascii()).map_err(|_| RequestError::Unusable { path: path.clone() })?;
        let value = HeaderValue::try_from(format!("Bearer {token}"));
        let mut value = value.map_err(|_| RequestError::Unusable { path: path.clone() })?;
        if token.is_empty() {
            return Err(RequestError::Unusable { path: path.clone() });
        }
        value.set_sensitive(true);
        request = request.header(reqwest::header::AUTHORIZATION, value);
    }
    if let Some(etag) = etag.and_then(|etag| HeaderValue::try_from(etag).ok()) {
        request = request.header(IF_NONE_MATCH, etag);
    }
    let mut response = request.send().await.map_err(failed)?;
    match response.status() {
        StatusCode::NOT_MODIFIED if etag.is_some() => return Ok(Answer::Unchanged),
        StatusCode::OK => {}
        other => return Err(RequestError::Status(other)),
    }
    let tag = response.headers().get(ETAG).and_then(|tag| tag.to_str().ok());
    let etag = tag.filter(|tag| tag.len() <= MAX_ETAG).map(str::to_owned);
    if response.content_length().is_some_and(|length| length > limit as u64) {
        return Err(RequestError::TooLarge(limit));
    }
    let mut bytes = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if bytes.len().saturating_add(chunk.len()) > limit {
            return Err(RequestError::TooLarge(limit));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Answer::Bundle { bytes: bytes.freeze(), etag })
}

/// Made anew for each request, so that certificates and keys may be replaced at any time.
fn client(download: &Download) -> Result<Client, RequestError> {
    let setup = |error: reqwest::Error| RequestError::Setup(chain(error));
    let timeout = download.poll.timeout.duration();
    // Proxies of the environment are not asked: what this process does stands in its configuration.
    let mut builder = Client::builder().no_proxy().timeout(timeout).connect_timeout(timeout).redirect(redirects());
    builder = builder.user_agent(concat!("doorward/", env!("CARGO_PKG_VERSION")));
    if let Some(path) = &download.ca {
        let unusable = |_| RequestError::Unusable { path: path.clone() };
        let authorities = Certificate::from_pem_bundle(&read(path)?).map_err(unusable)?;
        if authorities.is_empty() {
            return Err(RequestError::Unusable { path: path.clone() });
        }
        builder = builder.tls_certs_only(authorities);
    }
    if let Some(tls) = &download.tls {
        let pem = [read(&tls.certificate)?, b"\n".to_vec(), read(&tls.key)?].concat();
        let identity = Identity::from_pem(&pem).map_err(|_| RequestError::Unusable { path: tls.certificate.clone() })?;
        builder = builder.identity(identity);
    }
    builder.build().map_err(setup)
}

/// Only to the same scheme, host and port: another one was never trusted with our token, nor with our policy.
fn redirects() -> redirect::Policy {
    redirect::Policy::custom(|attempt| {
        let Some(first) = attempt.previous().first() else { return attempt.stop() };
        if attempt.previous().len() > MAX_REDIRECTS {
            return attempt.error("redirected too often");
        }
        match first.origin() == attempt.url().origin() {
            true => attempt.follow(),
            false => attempt.error("redirected to another server; write its address into `url`"),
        }
    })
}

fn read(path: &PathBuf) -> Result<Vec<u8>, RequestError> {
    fs::read(path).map_err(|error| RequestError::File { path: path.clone(), error })
}

fn failed(error: reqwest::Error) -> RequestError {
    RequestError::Failed(chain(error))
}

/// The whole chain, because what went wrong stands at its end; without the address, whose query may be a secret.
fn chain(error: reqwest::Error) -> String {
    format!("{:#}", anyhow::Error::from(error.without_url()))
}
