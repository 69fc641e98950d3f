# A table of routes: tests.
package cookbook.method_and_path_test

import data.cookbook.method_and_path

routes := [
	{"path": "/orders/*", "methods": ["GET"], "callers": ["spiffe://example.org/ns/*/sa/*"]},
	{"path": "/orders/**", "methods": ["POST"], "callers": ["spiffe://example.org/ns/shop/sa/web"]},
]

allowed(id, method, segments) := answer.allowed if {
	request := {
		"peer": {"spiffe_id": id},
		"url": {"segments": segments},
		"attributes": {"request": {"http": {"method": method}}},
	}
	answer := method_and_path.allow with data.routes as routes with input as request
}

web := "spiffe://example.org/ns/shop/sa/web"

test_a_route_allows_its_callers if {
	allowed(web, "GET", ["orders", "7"])
	allowed(web, "POST", ["orders", "7", "lines"])
	allowed("spiffe://example.org/ns/other/sa/x", "GET", ["orders", "7"])
}

test_another_method_path_or_caller_is_denied if {
	not allowed(web, "DELETE", ["orders", "7"])
	not allowed(web, "GET", ["orders", "7", "lines"])
	not allowed(web, "GET", ["orders"])
	not allowed("spiffe://example.org/ns/other/sa/x", "POST", ["orders", "7"])
	not allowed("spiffe://other.org/ns/shop/sa/web", "GET", ["orders", "7"])
}

test_without_a_peer_nothing_is_allowed if {
	not method_and_path.allow.allowed with input as {"url": {"segments": ["orders", "7"]}}
}
