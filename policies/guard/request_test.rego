# What is called: tests.
package guard_test

import data.guard

called(method, segments) := {
	"action": {"protocol": "http"},
	"url": {"segments": segments, "ambiguous": false},
	"attributes": {"request": {"http": {"method": method, "headers": {}}}},
}

headed(name, value) := {"attributes": {"request": {"http": {"method": "GET", "headers": {name: value}}}}}

test_methods if {
	guard.method_in({"GET", "PUT"}) with input as called("PUT", [])
	not guard.method_in({"GET"}) with input as called("PUT", [])
	guard.is_read with input as called("HEAD", [])
	not guard.is_read with input as called("POST", [])
	not guard.is_read with input as called("get", [])
	not guard.is_read with input as headed("x-http-method-override", "DELETE")
}

test_paths if {
	every pattern in ["/api/orders/7", "/api/*/7", "/api/**", "/**", "/api/orders/7/**", "/api/orders/*", "//api/orders/7/"] {
		guard.path_matches(pattern) with input as called("GET", ["api", "orders", "7"])
	}
	every pattern in ["/api/orders", "/api/*", "/api/orders/7/*", "/API/orders/7", "/**/7", "api/**", "", "/api/orders/*/x/**"] {
		not guard.path_matches(pattern) with input as called("GET", ["api", "orders", "7"])
	}
	guard.path_matches("/") with input as called("GET", [])
	not guard.path_matches("/*") with input as called("GET", [])
	guard.path_matches("/**") with input as called("GET", [])
}

test_a_path_that_can_be_read_in_two_ways if {
	guard.path_is_plain with input as called("GET", [])
	not guard.path_is_plain with input as {"url": {"ambiguous": true}}
	not guard.path_is_plain with input as {}
}

test_the_narrower_pattern_is_the_larger if {
	order := ["/**", "/*", "/*/*", "/a/**", "/a", "/a/*", "/a/*/c/**", "/a/*/c", "/a/b/c"]
	specificity := [guard.specificity(pattern) | some pattern in order]
	specificity == sort(specificity)
	count({rank | some rank in specificity}) == count(order)
}

test_hosts if {
	hosts := {"shop.example": "shop.example", "Shop.Example.:8443": "shop.example", "[::1]:80": "[::1]", "a:": "a"}
	every name, host in hosts {
		guard.host == host with input as {"attributes": {"request": {"http": {"host": name}}}}
	}
}

test_grpc if {
	call := {"action": {"protocol": "grpc"}, "url": {"segments": ["shop.v1.Orders", "Get"]}}
	guard.grpc_service == "shop.v1.Orders" with input as call
	guard.grpc_method == "Get" with input as call
	guard.grpc_call_is("shop.v1.Orders", "*") with input as call
	guard.grpc_call_is("shop.v1.Orders", "Get") with input as call
	not guard.grpc_call_is("shop.v1.Orders", "Delete") with input as call
	not guard.grpc_call_is("shop.v1.Orders", "*") with input as called("POST", ["shop.v1.Orders", "Get"])
}

test_headers if {
	guard.header("X-Role") == "admin" with input as headed("x-role", "admin")
	not guard.header("x-role") == "admin" with input as headed("x-role", "user,admin")
	guard.header_list("x-role") == ["user", "admin"] with input as headed("x-role", "user, admin")
	not guard.header("x-role") with input as headed("x-other", "admin")
}

test_bearer_token if {
	guard.bearer_token == "abc" with input as headed("authorization", "bearer abc")
	every value in ["Basic abc", "Bearer", "Bearer ", "Bearer a b", "Bearer a,Bearer b"] {
		not guard.bearer_token with input as headed("authorization", value)
	}
}

test_a_query_parameter_counts_once if {
	guard.query("tenant") == "a" with input as {"parsed_query": {"tenant": ["a"]}}
	not guard.query("tenant") with input as {"parsed_query": {"tenant": ["a", "b"]}}
	not guard.query("tenant") with input as {"parsed_query": {}}
}
