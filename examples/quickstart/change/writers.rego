# The change that the demo makes while everything runs: dropped into the policy folder, then taken out again.
package envoy.authz

allow := {"allowed": true, "rule": "write-orders", "reason": "the frontend may place orders"} if {
	input.peer.spiffe_id == frontend
	input.attributes.request.http.method == "POST"
	input.parsed_path == ["orders"]
}
