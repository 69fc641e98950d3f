# A workload of one tenant never touches what belongs to another: tests.
package cookbook.tenant_isolation_test

import data.cookbook.tenant_isolation

answer(id, request) := response if {
	response := tenant_isolation.allow with input as object.union(request, {"peer": {"spiffe_id": id}})
		with data.tenants as {"acme": ["spiffe://example.org/acme"], "globex": ["spiffe://example.org/globex"]}
		with data.shared as ["spiffe://example.org/backup"]
}

orders := {"url": {"segments": ["tenants", "acme", "orders"]}}

test_its_own_workloads_and_the_shared_ones_may_call if {
	answer("spiffe://example.org/acme", orders) == {"allowed": true, "rule": "tenant", "headers": {"x-tenant": "acme"}}
	answer("spiffe://example.org/backup", orders).allowed
}

test_nobody_else_may_call if {
	not answer("spiffe://example.org/globex", orders).allowed
	not answer("spiffe://example.org/other", orders).allowed
	not answer("spiffe://example.org/backup", {"url": {"segments": ["tenants", "nobody"]}}).allowed
	not answer("spiffe://example.org/backup", {"url": {"segments": ["orders"]}}).allowed
	not tenant_isolation.allow.allowed with input as orders
}

test_a_second_tenant_in_the_call_is_refused if {
	header := {"attributes": {"request": {"http": {"headers": {"x-tenant": "globex"}}}}}
	answer("spiffe://example.org/acme", object.union(orders, header)).rule == "contradiction"
	query := {"parsed_query": {"tenant": ["acme", "globex"]}}
	answer("spiffe://example.org/acme", object.union(orders, query)).rule == "contradiction"
	same := {"parsed_query": {"tenant": ["acme"]}}
	answer("spiffe://example.org/acme", object.union(orders, same)).rule == "tenant"
}
