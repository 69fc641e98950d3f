//! The closed words everyone shares: how a call was decided, and why. Each is a metric label and a record value, so
//! the text of a word never changes once released. What a caller is told about a denial is chosen in `envoy/encode`.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The answer to one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    Allow,
    Deny,
}

impl Decision {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// Whether decisions are enforced, or only recorded while everything is let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    #[default]
    Enforce,
    Observe,
}

impl Mode {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
        }
    }
}

/// How the peer was proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Evidence {
    /// The certificate chain was checked here.
    Sidecar,
    /// Envoy is believed, by explicit setting of the listener.
    Envoy,
    /// On the way out: it is the workload that this Envoy belongs to, and we hold its SVID.
    #[serde(rename = "self")]
    Own,
}

impl Evidence {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecar",
            Self::Envoy => "envoy",
            Self::Own => "self",
        }
    }
}

/// What kind of call was asked about, as the `protocol` label of metrics and `input.action.protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Http,
    Grpc,
    Tcp,
    /// JSON-RPC of the Model Context Protocol, over HTTP.
    Mcp,
}

impl Protocol {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
            Self::Mcp => "mcp",
        }
    }
}

macro_rules! words {
    ($($(#[doc = $doc:literal])+ $name:ident { $($(#[doc = $variant_doc:literal])* $variant:ident => $text:literal,)+ })+) => {$(
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[doc = $variant_doc])* $variant,)+ }

        impl $name {
            /// All of them, in their order.
            #[allow(dead_code, reason = "some of them are never gone through")]
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    )+};
}

words! {
    /// How hard an action is enforced, from the lightest to the hardest.
    Tier {
        /// No tier applies: the policy alone decides.
        None => "none",
        Light => "light",
        Standard => "standard",
        Strict => "strict",
    }

    /// What an action does to what it is about.
    Class {
        Read => "read",
        Write => "write",
        Delete => "delete",
        Execute => "execute",
        Admin => "admin",
        /// Not known, and so to be taken for the worst.
        Unknown => "unknown",
    }

    /// How much harm an action can do.
    Sensitivity {
        Low => "low",
        Medium => "medium",
        High => "high",
        Critical => "critical",
    }

    /// How much risk there is in a caller.
    Level {
        Low => "low",
        Medium => "medium",
        High => "high",
    }

    /// What may be noticed about a caller.
    SignalName {
        /// The caller presented a credential that another workload had presented before.
        CredentialReuse => "credential_reuse",
        /// The credential was presented in another declared zone before.
        CredentialZone => "credential_zone",
        /// The caller's certificate is older than the registry allows.
        CredentialAge => "credential_age",
        /// The caller's certificate lives longer than the registry allows.
        CredentialLifetime => "credential_lifetime",
        /// The registry does not know the caller.
        Unregistered => "unregistered",
        /// The registry names no owner of the caller.
        Unowned => "unowned",
        /// The caller's registration has ended, or is not active.
        RegistrationEnded => "registration_ended",
        /// The caller does this for the first time.
        FirstUse => "first_use",
        /// The caller acts outside of its schedule.
        OffSchedule => "off_schedule",
        /// The caller's last calls were denied one after the other.
        DenialStreak => "denial_streak",
        /// The caller makes more calls in a short time than is usual.
        Burst => "burst",
        /// The environment changed inside a session.
        EnvironmentChanged => "environment_changed",
        /// The zone changed inside a session.
        ZoneChanged => "zone_changed",
        /// The issuer of the caller's certificate changed inside a session.
        IssuerChanged => "issuer_changed",
    }
}

/// A set of signals, by their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SignalNames(u32);

impl SignalNames {
    pub const fn contains(self, name: SignalName) -> bool {
        self.0 & (1 << name as u32) != 0
    }
}

impl FromIterator<SignalName> for SignalNames {
    fn from_iter<I: IntoIterator<Item = SignalName>>(names: I) -> Self {
        Self(names.into_iter().fold(0, |set, name| set | (1 << name as u32)))
    }
}

/// Something noticed about a caller, shown to policy as `input.signals`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signal {
    pub name: SignalName,
    /// When it was noticed first, in nanoseconds since the Unix epoch.
    pub since_ns: u64,
    /// What it is about, with no secret in it.
    pub detail: String,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident => $text:literal,)+) => {
        /// Why a call was decided as it was. The text form is the metric label `reason` and the record's `reason`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[doc = $doc])+ $variant,)+ }

        impl Reason {
    /// Whether observing an action, a tier or a caller lets the call through: what policy, tier, path and risk say, and
    /// neither that a credential is bad nor that something failed.
    pub const fn is_lifted_by_observing(self) -> bool {
        matches!(
            self,
            Self::Policy
                | Self::UndefinedDecision
                | Self::TierEvidence
                | Self::TierUnknownAction
                | Self::TierBodyIncomplete
                | Self::PathRequires
                | Self::PathForbidden
                | Self::GrantRequired
                | Self::SessionUnproved
                | Self::SessionIncomplete
        )
    }

            /// Whether a grant, had there been one, would have helped.
            pub const fn is_about_a_grant(self) -> bool {
                matches!(self, Self::GrantRequired | Self::PathForbidden | Self::SessionIncomplete)
            }

            /// Every reason there is, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

reasons! {
    /// The policy in force said so.
    Policy => "policy",
    /// No policy is in force yet.
    NoPolicy => "no_policy",
    /// The policy has no answer for this input.
    UndefinedDecision => "undefined_decision",
    /// The policy's answer is neither a boolean nor an object with a boolean `allowed`.
    InvalidDecision => "invalid_decision",
    /// The policy's answer has a field that cannot be carried out (a bad header, status, body or metadata).
    InvalidResult => "invalid_result",
    /// The policy failed while it was evaluated.
    PolicyError => "policy_error",
    /// The policy did not finish within its time limit.
    PolicyTimeout => "policy_timeout",
    /// The policy came to a limit of what one of its function calls may take or make.
    PolicyLimit => "policy_limit",
    /// The policy engine panicked; the engine was thrown away.
    PolicyPanic => "policy_panic",
    /// The caller's deadline had passed, or passed while the call waited.
    DeadlineExceeded => "deadline_exceeded",
    /// Too many calls are waiting for a decision.
    Overloaded => "overloaded",
    /// The CheckRequest is larger than `limits.message`.
    MessageTooLarge => "message_too_large",
    /// The bytes are no CheckRequest.
    Undecodable => "undecodable",
    /// The path, query or body of the request cannot be parsed.
    RequestParseError => "request_parse_error",
    /// The path can be read in two ways (encoded slash, backslash, dot segment, double encoding, control byte).
    AmbiguousPath => "ambiguous_path",
    /// The peer's certificate cannot be parsed.
    CertificateMalformed => "certificate_malformed",
    /// The peer's certificate has no URI SAN, so it is no X.509-SVID.
    NoUriSan => "no_uri_san",
    /// The peer's certificate has more than one URI SAN.
    MultipleUriSans => "multiple_uri_sans",
    /// The peer's URI SAN, or the principal Envoy sent, is no SPIFFE ID of a workload.
    InvalidSpiffeId => "invalid_spiffe_id",
    /// The peer presented a certificate authority's certificate, or one that leaves it open where that is refused.
    CaCertificate => "ca_certificate",
    /// The key usage of the peer's certificate does not allow it to authenticate.
    KeyUsage => "key_usage",
    /// The extended key usage of the peer's certificate does not include client authentication.
    ExtendedKeyUsage => "extended_key_usage",
    /// There is no trust bundle for the peer's trust domain.
    UntrustedDomain => "untrusted_domain",
    /// The peer's certificate does not chain to the bundle of its own trust domain.
    UntrustedChain => "untrusted_chain",
    /// The Workload API gives no bundle for the peer's trust domain, or does not any more.
    TrustUnavailable => "trust_unavailable",
    /// Nobody has confirmed the bundle of the peer's trust domain for longer than `trust.max_stale`.
    TrustStale => "trust_stale",
    /// The call goes out from our own workload, whose SVID we do not have.
    OwnSvidUnavailable => "own_svid_unavailable",
    /// The peer's certificate is not valid yet.
    SvidNotYetValid => "svid_not_yet_valid",
    /// The peer's certificate has expired.
    SvidExpired => "svid_expired",
    /// The name constraints in the peer's chain do not permit it; URI name constraints never do.
    NameConstraints => "name_constraints",
    /// The `x-forwarded-client-cert` header is not of Envoy's form, too long, or has too many elements.
    XfccMalformed => "xfcc_malformed",
    /// The last element of `x-forwarded-client-cert` is about another certificate than the peer's.
    XfccMismatch => "xfcc_mismatch",
    /// The principal that Envoy sent is not the identity in the certificate.
    IdentityMismatch => "identity_mismatch",
    /// A token is longer than is looked at.
    TokenTooLarge => "token_too_large",
    /// A token is no compact JWS that means one thing.
    TokenMalformed => "token_malformed",
    /// A token has header parameters that must be understood, and are not.
    TokenCritical => "token_critical",
    /// A token is not signed in a way that its issuer's keys and our configuration allow.
    TokenAlgorithm => "token_algorithm",
    /// The `typ` of a token is not of the kind that is taken in its place.
    TokenType => "token_type",
    /// A credential is nobody's whose tokens are taken.
    TokenIssuer => "token_issuer",
    /// A token is not meant for us.
    TokenAudience => "token_audience",
    /// A claim that its kind needs is missing from a token, or of another form.
    TokenClaims => "token_claims",
    /// A token has expired.
    TokenExpired => "token_expired",
    /// A token is not valid yet, or was issued in the future.
    TokenNotYetValid => "token_not_yet_valid",
    /// A token lives longer than is taken.
    TokenLifetime => "token_lifetime",
    /// The signature of a token is not its issuer's.
    TokenSignature => "token_signature",
    /// The key that a token names is not known (yet).
    TokenUnknownKey => "token_unknown_key",
    /// The keys of a token's issuer have never been fetched.
    TokenNoKeys => "token_no_keys",
    /// The keys of a token's issuer have not been confirmed for too long.
    TokenKeysStale => "token_keys_stale",
    /// A credential that may be there once is there several times.
    TokenRepeated => "token_repeated",
    /// A token is bound to a certificate or key that the peer has not proved.
    TokenBinding => "token_binding",
    /// A token is bound to nothing, and it had to be.
    TokenUnbound => "token_unbound",
    /// A proof or a token for one use has been used before.
    TokenReplayed => "token_replayed",
    /// The proof of possession beside a token is missing or does not hold.
    DpopProof => "dpop_proof",
    /// A JWT-SVID is another workload's than the peer's.
    TokenMismatch => "token_mismatch",
    /// The actor that a token names is another workload than the peer.
    ActorMismatch => "actor_mismatch",
    /// A token's chain of actors is too long or of another form.
    DelegationInvalid => "delegation_invalid",
    /// An API key is not known.
    ApiKeyUnknown => "api_key_unknown",
    /// An API key has expired.
    ApiKeyExpired => "api_key_expired",
    /// An API key is not for this workload.
    ApiKeyWorkload => "api_key_workload",
    /// The caller, one of its credentials, or the session was revoked.
    Revoked => "revoked",
    /// The tier of the action wants more proof of the caller than there is.
    TierEvidence => "tier_evidence",
    /// The tier of the action does not take a call whose action is not known.
    TierUnknownAction => "tier_unknown_action",
    /// The tier of the action does not take a call whose body was cut.
    TierBodyIncomplete => "tier_body_incomplete",
    /// The action needs a label that the caller's session does not have.
    PathRequires => "path_requires",
    /// The action is forbidden after what the caller's session has done.
    PathForbidden => "path_forbidden",
    /// The action needs a grant, and there is none.
    GrantRequired => "grant_required",
    /// The grant that the policy relies on is none that is live and covers the call.
    GrantInvalid => "grant_invalid",
    /// The grant that it rests on has ended, or no use of it is left.
    GrantEnded => "grant_ended",
    /// The use of the grant could not be counted.
    GrantUnavailable => "grant_unavailable",
    /// The task that it belongs to has ended.
    TaskEnded => "task_ended",
    /// The action leaves a mark on the caller's session, and the caller has no verified peer to hold to.
    SessionUnproved => "session_unproved",
    /// The caller has more sessions, labels or actions than are kept of one principal.
    SessionLimit => "session_limit",
    /// The session could not be read or written.
    SessionUnavailable => "session_unavailable",
    /// What the session did before may have been forgotten, and the action is forbidden after some of it.
    SessionIncomplete => "session_incomplete",
    /// The session was ended.
    SessionEnded => "session_ended",
    /// The principal has as many live streams as one may have, or all principals have.
    TooManyStreams => "too_many_streams",
    /// The record of the decision could not be written, and it had to be.
    RecordUnavailable => "record_unavailable",
    /// A failure inside doorward itself.
    InternalError => "internal_error",
}

impl Reason {
    /// Whether a token is to blame, so that another one may help: HTTP calls that 401 (RFC 6750 §3.1).
    pub const fn is_about_a_token(self) -> bool {
        matches!(
            self,
            Self::TokenTooLarge
                | Self::TokenMalformed
                | Self::TokenCritical
                | Self::TokenAlgorithm
                | Self::TokenType
                | Self::TokenIssuer
                | Self::TokenAudience
                | Self::TokenClaims
                | Self::TokenExpired
                | Self::TokenNotYetValid
                | Self::TokenLifetime
                | Self::TokenSignature
                | Self::TokenUnknownKey
                | Self::TokenNoKeys
                | Self::TokenKeysStale
                | Self::TokenRepeated
                | Self::TokenBinding
                | Self::TokenUnbound
                | Self::TokenReplayed
                | Self::DpopProof
                | Self::TokenMismatch
                | Self::ActorMismatch
                | Self::DelegationInvalid
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_set_of_signals_has_room_for_all() {
        let all: SignalNames = SignalName::ALL.iter().copied().collect();
        assert!(SignalName::ALL.iter().all(|name| all.contains(*name) && !SignalNames::default().contains(*name)));
        let others: SignalNames = SignalName::ALL.iter().copied().skip(1).collect();
        assert!(!others.contains(SignalName::CredentialReuse) && others.contains(SignalName::IssuerChanged));
    }

    #[test]
    fn reasons_are_distinct_words() {
        let words: HashSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(words.len(), Reason::ALL.len());
        assert!(words.iter().all(|word| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
    }
}
