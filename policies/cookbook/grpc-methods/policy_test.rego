# Which workload may call which gRPC method: tests.
package cookbook.grpc_methods_test

import data.cookbook.grpc_methods

table := {"shop.v1.Orders": {"Get": ["spiffe://a/web"], "Refund": ["spiffe://a/desk"], "*": ["spiffe://a/pay"]}}

rule(id, protocol, segments) := answer.rule if {
	request := {"peer": {"spiffe_id": id}, "action": {"protocol": protocol}, "url": {"segments": segments}}
	answer := grpc_methods.allow with input as request with data.grpc as table
}

test_a_named_method_is_for_its_callers if {
	rule("spiffe://a/web", "grpc", ["shop.v1.Orders", "Get"]) == "shop.v1.Orders/Get"
	rule("spiffe://a/pay", "grpc", ["shop.v1.Orders", "Get"]) == "grpc"
	rule("spiffe://a/pay", "grpc", ["shop.v1.Orders", "Refund"]) == "grpc"
}

test_the_star_is_for_every_other_method if {
	rule("spiffe://a/pay", "grpc", ["shop.v1.Orders", "List"]) == "shop.v1.Orders/List"
	rule("spiffe://a/web", "grpc", ["shop.v1.Orders", "List"]) == "grpc"
}

test_what_is_no_call_of_a_known_service_is_denied if {
	rule("spiffe://a/web", "http", ["shop.v1.Orders", "Get"]) == "grpc"
	rule("spiffe://a/web", "grpc", ["shop.v1.Orders", "Get", "x"]) == "grpc"
	rule("spiffe://a/web", "grpc", ["shop.v1.Other", "Get"]) == "grpc"
}

test_health_needs_no_peer if {
	health := {"action": {"protocol": "grpc"}, "url": {"segments": ["grpc.health.v1.Health", "Check"]}}
	grpc_methods.allow.rule == "health" with input as health
	not grpc_methods.allow.allowed with input as {}
}
