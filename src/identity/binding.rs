//! What ties a token to the peer: its certificate, a key that it proves in this request, or its name. A token that is
//! bound and whose binding does not hold is a denial that no policy can overrule.

use aws_lc_rs::constant_time;

use super::{
    Peer,
    token::{Binding, Kind, Token},
};
use crate::verdict::Reason;

/// The binding that holds. `proof` is the thumbprint of the key that the request proves.
pub fn binding(token: &Token, peer: Option<&Peer>, proof: Option<&str>) -> Result<Binding, Reason> {
    let demanded = &token.confirmation;
    if let Some(hash) = &demanded.certificate {
        let certificate = peer.and_then(|peer| peer.x509.as_ref()).ok_or(Reason::TokenBinding)?;
        equal(hash, &certificate.sha256)?;
    }
    if let Some(key) = &demanded.key {
        equal(key, proof.ok_or(Reason::TokenBinding)?)?;
    }
    Ok(match demanded {
        demanded if demanded.certificate.is_some() => Binding::Mtls,
        demanded if demanded.key.is_some() => Binding::Dpop,
        _ if peer.is_some_and(|peer| names(token, &peer.text)) => Binding::Id,
        _ => Binding::None,
    })
}

fn equal(demanded: &str, proved: &str) -> Result<(), Reason> {
    constant_time::verify_slices_are_equal(demanded.as_bytes(), proved.as_bytes()).map_err(|_| Reason::TokenBinding)
}

/// Whether the token is about this workload.
fn names(token: &Token, peer: &str) -> bool {
    let actor = || token.claims.get("act").and_then(|actor| actor.get("sub")?.as_str());
    let named = match token.kind {
        // A key file lists its workloads, which was looked at already.
        Kind::ApiKey => return true,
        Kind::Transaction => token.text("req_wl") == Some(peer),
        _ => token.subject == peer || token.text("client_id") == Some(peer) || actor() == Some(peer),
    };
    named || token.identity.as_deref() == Some(peer)
}
