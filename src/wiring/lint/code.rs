//! Every weakness that is looked for: its word, how grave it is, what it costs, and the lines that mend it. An error lets
//! a call pass that was not decided, or was decided about something else than is done; a warning depends on the rest; a
//! note says what could not be seen.

use serde::{Serialize, Serializer};

use crate::policy::problem::Severity;

macro_rules! codes {
    ($($variant:ident => $word:literal, $severity:ident, $reason:literal, $corrected:literal;)+) => {
        /// The kind of a weakness, as a word that scripts may match.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $($variant,)+ }

        impl Code {
            #[cfg(test)]
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            pub const fn severity(self) -> Severity {
                match self { $(Self::$variant => Severity::$severity,)+ }
            }

            /// What it costs, in a sentence without a full stop.
            pub(super) const fn reason(self) -> &'static str {
                match self { $(Self::$variant => $reason,)+ }
            }

            /// The lines to write instead.
            pub(super) const fn corrected(self) -> &'static str {
                match self { $(Self::$variant => $corrected,)+ }
            }
        }
    };
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

codes! {
    FilterMissing => "filter_missing", Error,
        "calls through this HTTP connection manager are passed on without asking doorward",
        "http_filters:  # what `doorward gen envoy --filter-only` prints, before the router\n- name: envoy.filters.http.ext_authz";
    FilterDisabled => "filter_disabled", Error,
        "the filter is off unless a route turns it on, so that every other route is passed on unasked",
        "disabled: false";
    FilterOptional => "filter_optional", Warning,
        "an Envoy that lacks the filter starts without it and asks nobody",
        "is_optional: false";
    FilterConditional => "filter_conditional", Error,
        "a matcher decides whether doorward is asked, and what it leaves out is passed on",
        "typed_config:  # ExtAuthz itself, not wrapped in ExtensionWithMatcher";
    FilterUnseen => "filter_unseen", Note,
        "the filter's configuration is delivered over the network and not in this file; check the answer of `/config_dump?include_eds`",
        "";
    HttpService => "http_service", Error,
        "doorward answers the gRPC service only, so every call fails",
        "grpc_service: {envoy_grpc: {cluster_name: doorward}, timeout: 0.25s}";
    FailureModeAllow => "failure_mode_allow", Error,
        "whoever can stop or slow doorward, with a flood or an oversized request, is let through unasked",
        "failure_mode_allow: false";
    CompatFailsOpen => "compat_fails_open", Error,
        "under `policy.compat: opa-envoy` an undefined decision and a failed evaluation are gRPC errors, which `failure_mode_allow` turns into allows: a policy with a hole allows what falls through it",
        "failure_mode_allow: false";
    StatusOnError => "status_on_error", Error,
        "a call that could not be decided is answered with success or a redirect, which clients and caches take for an allow",
        "status_on_error: {code: ServiceUnavailable}";
    ShadowMode => "shadow_mode", Error,
        "decisions are noted and not enforced",
        "shadow_mode: false";
    FilterEnabledPartly => "filter_enabled", Error,
        "a share of the calls is passed on unasked",
        "filter_enabled: {default_value: {numerator: 100, denominator: HUNDRED}}  # or leave it out";
    FilterEnabledByMetadata => "filter_enabled_metadata", Warning,
        "whether doorward is asked depends on what an earlier filter writes; without `deny_at_disable` the rest passes unasked",
        "deny_at_disable: {default_value: true, runtime_key: ext_authz.deny_at_disable}";
    PeerCertificateMissing => "peer_certificate_missing", Error,
        "doorward gets no certificate, so no SPIFFE ID is proved and `input.peer` is absent",
        "include_peer_certificate: true";
    TimeoutMissing => "timeout_missing", Warning,
        "Envoy's default (200 ms) holds, and a change of it would go unnoticed",
        "timeout: 0.25s";
    TimeoutUnbounded => "timeout_unbounded", Error,
        "`0s` is no limit: a frozen doorward holds every call and its memory until the client gives up",
        "timeout: 0.25s";
    TimeoutExcessive => "timeout_excessive", Warning,
        "a frozen doorward holds every call this long before it is refused",
        "timeout: 0.25s";
    TimeoutShort => "timeout_short", Warning,
        "Envoy gives up before doorward's own deadline, so that slow calls end without reason",
        "timeout: 0.25s";
    RetryOnReset => "retry_on_reset", Warning,
        "a Check that was decided is asked again when its answer is lost: a single-use grant or a DPoP proof is then used twice and refused",
        "retry_policy: {retry_on: \"connect-failure,refused-stream,reset-before-request\", num_retries: 6}";
    BodyLimitDiffers => "body_limit_differs", Error,
        "doorward cannot tell a whole body from a cut one, and what follows the first bytes is not decided",
        "with_request_body: {max_request_bytes: 65536, allow_partial_message: true, pack_as_bytes: true}";
    BodyAsText => "body_as_text", Warning,
        "bytes that are no UTF-8 reach the policy as `!`, so that it reads another body than the workload",
        "pack_as_bytes: true";
    MutationsUnchecked => "mutations_unchecked", Warning,
        "a header or query change that is not well formed is passed on as it is",
        "validate_mutations: true";
    LeaseHeaderBlocked => "lease_header_blocked", Error,
        "Envoy drops `x-envoy-upstream-stream-duration-ms` from the answer: streams outlive their lease, and a client's own value is kept",
        "decoder_header_mutation_rules: {allow_expression: {regex: \"x-envoy-upstream-stream-duration-ms|x-doorward-.*\"}}";
    RouteCacheCleared => "clear_route_cache", Warning,
        "the route is chosen anew after the decision: a header that the policy sets, or the client brought, can lead elsewhere than was decided",
        "clear_route_cache: false";
    HeadersHidden => "headers_hidden", Warning,
        "the policy does not see every header that the workload sees",
        "# remove allowed_headers and disallowed_headers";
    HeadersJoined => "headers_joined", Note,
        "headers sent twice arrive joined by a comma, and bytes that are no UTF-8 as `!`",
        "encode_raw_headers: true";
    RewriteAfterFilter => "rewrite_after_filter", Warning,
        "a filter after ext_authz may change the request or its route once it has been decided",
        "# move it before envoy.filters.http.ext_authz";
    AnswerBeforeFilter => "answer_before_filter", Error,
        "a cache before ext_authz answers with what another caller was allowed to read",
        "# move it after envoy.filters.http.ext_authz";
    UpgradeUnasked => "upgrade_unasked", Error,
        "upgrades of this type pass a filter chain of their own without ext_authz",
        "upgrade_configs: [{upgrade_type: websocket}]  # no filters of its own";
    RouteDisabled => "route_disabled", Error,
        "calls by this route are passed on without asking doorward",
        "# remove `disabled: true`; a public route is the policy's to allow, and then leaves a record";
    RouteService => "route_service", Warning,
        "this route asks another server, with its own timeout; Envoy before 1.38.1 can crash on it (CVE-2026-47205)",
        "# remove grpc_service and http_service from check_settings";
    RouteRetry => "route_retry", Warning,
        "a stream that its lease has cut before the first answer is opened again under the old decision",
        "retry_policy: {retry_on: \"connect-failure,refused-stream\"}";
    RoutesUnseen => "routes_unseen", Note,
        "the routes are delivered over the network and not in this file; check the answer of `/config_dump`",
        "";
    ListenersUnseen => "listeners_unseen", Note,
        "listeners are delivered over the network and not in this file; check the answer of `/config_dump`",
        "";
    PathNotNormalised => "path_not_normalised", Error,
        "`/public/../admin` reaches policy and workload as it is, and the two may read it differently",
        "normalize_path: true";
    SlashesNotMerged => "slashes_not_merged", Error,
        "`//admin` is another path to a policy and the same to many workloads",
        "merge_slashes: true";
    EscapedSlashesKept => "escaped_slashes_kept", Error,
        "`/public%2F..%2Fadmin` is one segment to one reader and three to another",
        "path_with_escaped_slashes_action: REJECT_REQUEST";
    UnderscoresAllowed => "underscores_allowed", Warning,
        "`x_user` and `x-user` are two headers to the policy and one to many workloads",
        "common_http_protocol_options: {headers_with_underscores_action: REJECT_REQUEST}";
    ClientAddressForged => "client_address_forged", Error,
        "Envoy believes the client's `x-forwarded-for`, and takes it for internal when it says so: its `x-envoy-*` headers then set timeouts, retries and more",
        "use_remote_address: true";
    InternalAddressesTrusted => "internal_addresses_trusted", Error,
        "clients from these addresses (every private one, where there are no `cidr_ranges`) may send `x-envoy-*` headers, which set timeouts, retries and more",
        "internal_address_config: {cidr_ranges: [{address_prefix: 0.0.0.0, prefix_len: 32}]}";
    InternalAddressesDefault => "internal_addresses_default", Warning,
        "Envoy before 1.33 takes every private address for internal and accepts its `x-envoy-*` headers",
        "internal_address_config: {cidr_ranges: [{address_prefix: 0.0.0.0, prefix_len: 32}]}";
    XfccForwarded => "xfcc_forwarded", Error,
        "a client writes its own `x-forwarded-client-cert`, and whoever reads it upstream believes it",
        "forward_client_cert_details: SANITIZE_SET\nset_current_client_cert_details: {cert: true, chain: true, uri: true}";
    XfccAbsent => "xfcc_absent", Warning,
        "`peer.xfcc: last_element` waits for the certificates between leaf and root, and Envoy does not send them: SVIDs of an intermediate are refused",
        "forward_client_cert_details: SANITIZE_SET\nset_current_client_cert_details: {cert: true, chain: true, uri: true}";
    PlaintextListener => "plaintext_listener", Error,
        "without TLS nobody proves who calls",
        "transport_socket:  # DownstreamTlsContext, as `doorward gen envoy` prints it\n  name: envoy.transport_sockets.tls";
    EgressExposed => "egress_exposed", Error,
        "calls that the workload makes prove nothing, so whoever reaches this listener speaks as the workload",
        "address: {socket_address: {address: 127.0.0.1, port_value: 15001}}";
    UntrustedAccepted => "untrusted_accepted", Error,
        "a certificate that chains to nothing is accepted: access log, RBAC and `source.principal` show an identity that nobody has proved",
        "trust_chain_verification: VERIFY_TRUST_CHAIN";
    ExpiredAccepted => "expired_accepted", Error,
        "a certificate is good for ever, also one that leaked long ago",
        "allow_expired_certificate: false";
    ClientTrustMissing => "client_trust_missing", Error,
        "no roots to verify clients by: Envoy asks for no certificate, or accepts any",
        "validation_context: {trusted_ca: {filename: /run/spiffe/ca.crt}}";
    CertificateOptional => "certificate_optional", Warning,
        "a call without a certificate reaches the policy, without `input.peer`: right where there are public routes",
        "require_client_certificate: true";
    OldTls => "old_tls", Error,
        "TLS before 1.2 can be read or altered on the way",
        "tls_params: {tls_minimum_protocol_version: TLSv1_2}";
    TcpUnasked => "tcp_unasked", Warning,
        "connections through this TCP proxy are passed on without asking doorward",
        "- name: envoy.filters.network.ext_authz  # before envoy.filters.network.tcp_proxy";
    SocketDiffers => "socket_differs", Error,
        "the filter asks somebody else than the doorward of this configuration",
        "address: {pipe: {path: /run/doorward/envoy/authz.sock}}";
    ClusterMissing => "cluster_missing", Error,
        "the cluster that the filter asks is not in this file, so every call fails",
        "# what `doorward gen envoy --filter-only` prints under clusters";
    ClusterUnprotected => "cluster_unprotected", Error,
        "Checks travel without TLS: whoever is on the way can answer them, and each carries the caller's credentials",
        "address: {pipe: {path: /run/doorward/envoy/authz.sock}}";
    ClusterOnLoopback => "cluster_on_loopback", Warning,
        "whoever takes this port first answers in doorward's place, and whoever reaches doorward's can speak for any workload",
        "address: {pipe: {path: /run/doorward/envoy/authz.sock}}";
    ClusterNotHttp2 => "cluster_not_http2", Error,
        "gRPC needs HTTP/2, so every Check fails",
        "typed_extension_protocol_options:\n  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n    \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n    explicit_http_config: {http2_protocol_options: {}}";
    CircuitBreakersLow => "circuit_breakers_low", Warning,
        "Envoy refuses calls itself before doorward's queue is full, and those leave no record",
        "circuit_breakers: {thresholds: [{max_pending_requests: 4096, max_requests: 4096}]}";
    StreamsShareCluster => "streams_share_cluster", Warning,
        "each live stream takes one of the requests that the cluster may have: with many of them Envoy refuses calls, and doorward is not asked",
        "grpc_service: {envoy_grpc: {cluster_name: doorward_streams}}  # what `doorward gen envoy --streams` prints under clusters";
    StreamBreakersLow => "stream_breakers_low", Warning,
        "Envoy refuses streams itself before doorward's `limits.streams` is reached, and those leave no record",
        "circuit_breakers: {thresholds: [{max_connections: 64, max_pending_requests: 12500, max_requests: 12500}]}";
    StreamsFailOpen => "streams_fail_open", Error,
        "a stream goes on when doorward ends it: who was shut out keeps what is open",
        "failure_mode_allow: false";
    StreamsNotHeld => "streams_not_held", Error,
        "Envoy lets go of doorward once it has seen the head of a request, so that nothing can end the stream",
        "processing_mode: {request_header_mode: SEND, response_header_mode: SKIP, response_trailer_mode: SEND}";
    StreamsUnnamed => "streams_unnamed", Error,
        "the decision id does not reach doorward, so that it refuses every stream",
        "metadata_options: {forwarding_namespaces: {untyped: [envoy.filters.http.ext_authz]}}";
    AdminExposed => "admin_exposed", Error,
        "whoever reaches the admin interface reads the configuration, changes runtime values and stops Envoy",
        "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 9901}}}";
    HeaderPrefix => "header_prefix", Error,
        "Envoy's own headers have another name here, so that the lease header of an answer is not read and streams have no end",
        "# remove header_prefix";
}
