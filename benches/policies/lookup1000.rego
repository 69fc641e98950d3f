# A table of workloads in the data decides: each may use some methods below some prefixes.
package envoy.authz

import rego.v1

default allow := false

allow if {
	workload := data.workloads[input.peer.spiffe_id]
	input.attributes.request.http.method in workload.methods
	some prefix in workload.prefixes
	startswith(input.attributes.request.http.path, prefix)
}
