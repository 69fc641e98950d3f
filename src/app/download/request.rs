//! One request for a bundle, within limits of time and size. How a server is spoken to is `client`'s.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::{
    StatusCode,
    header::{CACHE_CONTROL, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH},
};

use crate::{
    app::client::{Access, ClientError, failed},
    config::Download,
    trust::own::OwnSvid,
};

/// Longest entity tag that is worth keeping.
const MAX_ETAG: usize = 1024;

/// What the server had to say.
pub(in crate::app) enum Answer {
    Unchanged,
    Bundle {
        bytes: Bytes,
        etag: Option<String>,
        /// How long the server takes it for fresh (`max-age`, RFC 9111 §5.2.2.1).
        max_age: Option<Duration>,
    },
}

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub(in crate::app) enum RequestError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the server answered {0}; check address and token")]
    Status(StatusCode),
    #[error("the answer is larger than {0} bytes; raise `policy.limits.total`")]
    TooLarge(usize),
}

/// Asks for the bundle, unless it is still the one of `etag`.
pub(in crate::app) async fn send(
    download: &Download,
    own: &OwnSvid,
    etag: Option<&str>,
    limit: usize,
) -> Result<Answer, RequestError> {
    let access = Access::from(download);
    let mut request = access.authorised(access.client(own)?.get(download.url.clone()))?;
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
    let max_age = max_age(response.headers());
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
    Ok(Answer::Bundle { bytes: bytes.freeze(), etag, max_age })
}

fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let directives = headers.get_all(CACHE_CONTROL).into_iter().filter_map(|value| value.to_str().ok());
    let mut directives = directives.flat_map(|value| value.split(',')).filter_map(|directive| directive.trim().split_once('='));
    let (_, seconds) = directives.find(|(name, _)| name.eq_ignore_ascii_case("max-age"))?;
    seconds.trim_matches('"').parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freshness_is_read_from_cache_control() {
        for (text, expected) in [
            ("max-age=60", Some(60)),
            ("public, Max-Age=\"90\", must-revalidate", Some(90)),
            ("no-store", None),
            ("s-maxage=5", None),
            ("max-age=-1", None),
            ("max-age=99999999999999999999", None),
        ] {
            let headers = HeaderMap::from_iter([(CACHE_CONTROL, HeaderValue::from_static(text))]);
            assert_eq!(max_age(&headers), expected.map(Duration::from_secs), "{text}");
        }
    }
}
