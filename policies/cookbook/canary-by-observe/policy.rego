# A stricter rule comes into force caller by caller, and shows before that what it would do.
#
# Data: `canary`, {enforced: SPIFFE IDs, percent: of the other callers}. Whoever is not in the canary gets the answer of
# the old rule; what the new one says of it stands in the record and in Envoy's dynamic metadata. A whole new policy is
# tried with the setting `mode: observe` or as a shadow; this is for one rule among others.
package cookbook.canary_by_observe

default allow := {"allowed": false, "rule": "old", "reason": "the caller is not in the mesh"}

allow := {"allowed": true, "rule": "new"} if {
	old
	new
}

allow := {"allowed": false, "rule": "new", "reason": refusal} if {
	old
	not new
	enforced
}

allow := {
	"allowed": true,
	"rule": "old",
	"reason": sprintf("the canary would deny: %s", [refusal]),
	"dynamic_metadata": {"canary": "would_deny"},
} if {
	old
	not new
	not enforced
}

refusal := "writing needs a certificate of at most an hour"

# In force: everybody in the mesh.
old if input.peer.trust_domain == "example.org"

# To come: who writes has a short-lived certificate.
new if input.attributes.request.http.method in {"GET", "HEAD"}

new if input.peer.x509.lifetime_s <= 3600

enforced if input.peer.spiffe_id in data.canary.enforced

enforced if bucket < data.canary.percent

# 0 to 99, the same for each call of one caller.
bucket := floor((((high * 16) + low) * 100) / 256) if {
	digest := crypto.sha256(input.peer.spiffe_id)
	high := indexof("0123456789abcdef", substring(digest, 0, 1))
	low := indexof("0123456789abcdef", substring(digest, 1, 1))
}
