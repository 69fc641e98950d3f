# A workload of one tenant never touches what belongs to another.
#
# Data: `tenants`, from the tenant to the SPIFFE IDs that work for it; `shared`, those that work for all. The tenant of
# a call is in its path (`/tenants/TENANT/…`), and a header or query parameter that names one must name the same.
package cookbook.tenant_isolation

default allow := {"allowed": false, "rule": "tenant", "reason": "the caller does not work for this tenant"}

allow := {"allowed": false, "rule": "contradiction", "reason": "the call names two tenants"} if contradicted

allow := {"allowed": true, "rule": "tenant", "headers": {"x-tenant": tenant}} if {
	not contradicted
	may_work_for(tenant)
}

tenant := input.url.segments[1] if input.url.segments[0] == "tenants"

may_work_for(name) if input.peer.spiffe_id in data.tenants[name]

may_work_for(name) if {
	data.tenants[name]
	input.peer.spiffe_id in data.shared
}

contradicted if input.attributes.request.http.headers["x-tenant"] != tenant

contradicted if {
	some named in input.parsed_query.tenant
	named != tenant
}
