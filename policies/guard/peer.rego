# Who calls.
#
# Questions about the proved peer of a call. Without a proved peer every one of them is undefined, so a rule that
# asks one denies. A namespace means nothing without its trust domain: another domain may have one of the same name.
package guard

# The caller is a workload that an X.509-SVID proves.
has_peer if is_string(input.peer.spiffe_id)

peer_in_trust_domain(trust_domain) if input.peer.trust_domain == trust_domain

# The Kubernetes form of a SPIFFE ID: spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT.
peer_namespace := input.peer.path[1] if peer_has_kubernetes_id

peer_service_account := input.peer.path[3] if peer_has_kubernetes_id

peer_has_kubernetes_id if {
	count(input.peer.path) == 4
	input.peer.path[0] == "ns"
	input.peer.path[2] == "sa"
}

peer_in_namespace(trust_domain, namespace) if {
	peer_in_trust_domain(trust_domain)
	peer_namespace == namespace
}

# `pattern` is a SPIFFE ID in which `*` stands for one segment and a last `**` for any number of them.
peer_matches(pattern) if {
	startswith(pattern, "spiffe://")
	segments_match(segments(input.peer.spiffe_id), segments(pattern))
}

# The certificate chain was checked by doorward itself, not only by Envoy.
peer_proved_here if input.peer.evidence == "sidecar"

# The certificate was issued for at most so many seconds.
credential_lives_at_most(seconds) if input.peer.x509.lifetime_s <= seconds

# The certificate was issued at most so many seconds ago.
credential_is_younger_than(seconds) if input.peer.x509.age_s < seconds

# What to tell about a call without a peer.
no_peer_text := sprintf("the caller's certificate is refused: %s", [input.peer_error])

default no_peer_text := "the caller has no certificate"
