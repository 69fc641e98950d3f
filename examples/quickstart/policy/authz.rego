# Who may call the orders service. doorward asks for `data.envoy.authz.allow` at each call; `rule` and `reason` end up in
# the record of the decision.
package envoy.authz

frontend := "spiffe://shop.example/ns/web/sa/frontend"

default allow := {"allowed": false, "rule": "default", "reason": "no rule allows this call"}

allow := {"allowed": false, "rule": "unknown-caller", "reason": "the caller proved no identity"} if {
	not input.peer
}

allow := {"allowed": true, "rule": "read-orders", "reason": "the frontend may read orders"} if {
	input.peer.spiffe_id == frontend
	input.attributes.request.http.method == "GET"
	input.parsed_path[0] == "orders"
}
