# Start here: the workloads of namespace `web` may read, nobody may write. doorward asks for `data.envoy.authz.allow`.
package envoy.authz

default allow := {"allowed": false, "rule": "default", "reason": "no rule allows this call"}

allow := {"allowed": true, "rule": "read", "reason": "workloads of namespace web may read"} if {
	startswith(input.peer.spiffe_id, "spiffe://cluster.local/ns/web/")
	input.attributes.request.http.method in {"GET", "HEAD"}
}
