//! Requests to a server of the operator's: over TLS to the server that is meant and to no other, with what proves who
//! we are. What is asked is `download`'s, `upload`'s and `alerts`'s.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::{Certificate, Client, Identity, RequestBuilder, header, header::HeaderValue, redirect};

use crate::{
    config::{Alertmanager, Download, Poll, Shown, Upload},
    trust::own::OwnSvid,
};

const MAX_REDIRECTS: usize = 5;

/// First wait after a failure, if `poll.min` is not shorter.
const FIRST_RETRY: Duration = Duration::from_millis(500);

/// Why a request cannot be made, or has no answer. No text quotes a token, a key or the query of an address.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error("`{}` cannot be read: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    #[error("`{}` holds nothing that can be used; check its form", path.display())]
    Unusable { path: PathBuf },
    #[error("the Workload API has given us no SVID yet to show to the server")]
    NoOwnSvid,
    #[error("no request can be made: {0}")]
    Setup(String),
    #[error("the server did not answer as it should: {0}")]
    Failed(String),
}

/// How to speak to a server.
#[derive(Clone, Copy)]
pub(super) struct Access<'a> {
    token_file: Option<&'a Path>,
    tls: Option<&'a Shown>,
    ca: Option<&'a Path>,
    timeout: Duration,
}

impl<'a> From<&'a Download> for Access<'a> {
    fn from(Download { token_file, tls, ca, poll, .. }: &'a Download) -> Self {
        Self { token_file: token_file.as_deref(), tls: tls.as_ref(), ca: ca.as_deref(), timeout: poll.timeout.duration() }
    }
}

impl<'a> From<&'a Upload> for Access<'a> {
    fn from(Upload { token_file, tls, ca, delay, .. }: &'a Upload) -> Self {
        Self { token_file: token_file.as_deref(), tls: tls.as_ref(), ca: ca.as_deref(), timeout: delay.timeout.duration() }
    }
}

impl<'a> From<&'a Alertmanager> for Access<'a> {
    fn from(Alertmanager { token_file, tls, ca, timeout, .. }: &'a Alertmanager) -> Self {
        Self { token_file: token_file.as_deref(), tls: tls.as_ref(), ca: ca.as_deref(), timeout: timeout.duration() }
    }
}

impl Access<'_> {
    /// Made anew each time that there is something to ask, so that certificates and keys may be replaced at any time.
    pub(super) fn client(&self, own: &OwnSvid) -> Result<Client, ClientError> {
        let setup = |error: reqwest::Error| ClientError::Setup(chain(error));
        // Proxies of the environment are not asked: what this process does stands in its configuration.
        let mut builder = Client::builder().no_proxy().timeout(self.timeout).connect_timeout(self.timeout).redirect(redirects());
        builder = builder.user_agent(concat!("doorward/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = self.ca {
            let unusable = |_| ClientError::Unusable { path: path.to_owned() };
            let authorities = Certificate::from_pem_bundle(&read(path)?).map_err(unusable)?;
            if authorities.is_empty() {
                return Err(ClientError::Unusable { path: path.to_owned() });
            }
            builder = builder.tls_certs_only(authorities);
        }
        builder = match self.tls {
            None => builder,
            Some(Shown::Files(tls)) => {
                let pem = [read(&tls.certificate)?, b"\n".to_vec(), read(&tls.key)?].concat();
                let unusable = |_| ClientError::Unusable { path: tls.certificate.clone() };
                builder.identity(Identity::from_pem(&pem).map_err(unusable)?)
            }
            Some(Shown::WorkloadApi) => {
                let svid = own.current();
                let svid = svid.as_ref().ok_or(ClientError::NoOwnSvid)?;
                builder.identity(Identity::from_pem(svid.pem().as_bytes()).map_err(setup)?)
            }
        };
        builder.build().map_err(setup)
    }

    /// The request with our token, where there is one.
    pub(super) fn authorised(&self, request: RequestBuilder) -> Result<RequestBuilder, ClientError> {
        let Some(path) = self.token_file else { return Ok(request) };
        let unusable = || ClientError::Unusable { path: path.to_owned() };
        let token = read(path)?;
        let token = std::str::from_utf8(token.trim_ascii()).map_err(|_| unusable())?;
        if token.is_empty() {
            return Err(unusable());
        }
        let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| unusable())?;
        value.set_sensitive(true);
        Ok(request.header(header::AUTHORIZATION, value))
    }
}

/// How long to wait after so many failures in a row; `chance` lies between 0 and 1. Processes that start together, or
/// that lose one server together, do not come back together.
pub(super) fn wait(poll: &Poll, failures: u32, chance: f64) -> Duration {
    let (min, max) = (poll.min.duration(), poll.max.duration());
    if failures == 0 {
        return min + max.saturating_sub(min).mul_f64(chance);
    }
    let first = FIRST_RETRY.min(min);
    let doubled = first.saturating_mul(1_u32.checked_shl(failures - 1).unwrap_or(u32::MAX)).min(max);
    doubled.mul_f64(0.5 + chance / 2.0)
}

pub(super) fn chance() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness everybody waits as long as everybody else, which is no reason not to wait.
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        return 0.5;
    }
    f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX)
}

pub(super) fn failed(error: reqwest::Error) -> ClientError {
    ClientError::Failed(chain(error))
}

/// The whole chain, because what went wrong stands at its end; without the address, whose query may be a secret.
fn chain(error: reqwest::Error) -> String {
    format!("{:#}", anyhow::Error::from(error.without_url()))
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

fn read(path: &Path) -> Result<Vec<u8>, ClientError> {
    fs::read(path).map_err(|error| ClientError::File { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Span;

    #[test]
    fn waits_grow_and_stay_within_bounds() {
        let poll = Poll { min: Span::millis(60_000), max: Span::millis(120_000), ..Poll::default() };
        for (failures, chance, expected) in [
            (0, 0.0, 60_000),
            (0, 1.0, 120_000),
            (1, 1.0, 500),
            (1, 0.0, 250),
            (2, 1.0, 1_000),
            (8, 1.0, 64_000),
            (9, 1.0, 120_000),
            (40, 1.0, 120_000),
            (u32::MAX, 0.0, 60_000),
        ] {
            assert_eq!(wait(&poll, failures, chance), Duration::from_millis(expected), "{failures} {chance}");
        }
        assert!((0.0..=1.0).contains(&chance()));
    }
}
