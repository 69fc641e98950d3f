# A third party gets what its contract names and nothing else.
#
# Data: `contracts`, from the trust domain to {until, paths, methods, networks, max_body, max_lifetime_s}. Each limit has
# to be shown to hold: one that is missing in the contract denies.
package cookbook.third_party_limits

default allow := {"allowed": false, "rule": "contract", "reason": "no contract with the caller's trust domain"}

allow := {"allowed": true, "rule": "own"} if is_own

# The lease ends long streams, such as watches, so that the end of the contract is one.
allow := {"allowed": true, "rule": "contract", "lease_s": 300} if {
	not is_own
	contract
	count(broken) == 0
}

allow := {"allowed": false, "rule": "contract", "reason": sprintf("beyond the contract: %s", [concat(", ", broken)])} if {
	not is_own
	contract
	count(broken) > 0
}

is_own if input.peer.trust_domain == data.own_domain

contract := data.contracts[input.peer.trust_domain]

broken := {"until", "path", "method", "network", "body", "credential"} - kept

kept contains "until" if input.now.ns < time.parse_rfc3339_ns(contract.until)

kept contains "path" if {
	some pattern in contract.paths
	glob.match(pattern, ["/"], concat("/", array.concat([""], input.url.segments)))
}

kept contains "method" if input.attributes.request.http.method in contract.methods

kept contains "network" if {
	some network in contract.networks
	net.cidr_contains(network, input.peer.address)
}

# Envoy tells -1 where it does not know the size.
kept contains "body" if {
	input.truncated_body == false
	size := object.get(input.attributes.request.http, "size", 0)
	size >= 0
	size <= contract.max_body
}

kept contains "credential" if input.peer.x509.lifetime_s <= contract.max_lifetime_s
