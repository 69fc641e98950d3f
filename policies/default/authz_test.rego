# The default policy: tests.
package envoy.authz_test

import data.envoy.authz

catalogue := {
	"health": {"match": [{"path": "/healthz", "methods": ["GET"]}], "evidence": "none"},
	"orders.read": {"match": [{"path": "/orders/**", "methods": ["GET"], "host": "shop.example"}]},
	"orders.refund": {"match": [{"path": "/orders/*/refund"}], "tier": "strict"},
	"orders.any": {"match": [{"path": "/orders/**"}, {"path": "/order-history"}]},
}

registry := {
	"spiffe://example.org/ns/shop/sa/web": {"allows": ["orders.*"]},
	"spiffe://example.org/ns/shop/sa/*": {"allows": ["orders.read"]},
	"spiffe://example.org/**": {"allows": ["orders.any"]},
	"spiffe://example.org/ns/twice/sa/*": {"allows": ["orders.*"]},
	"spiffe://example.org/ns/*/sa/twice": {"allows": ["orders.*"]},
}

peer(id) := {"spiffe_id": id, "evidence": "sidecar", "x509": {"lifetime_s": 3600}}

call(id, method, segments) := {
	"peer": peer(id),
	"self": {"environment": "production"},
	"now": {"ns": time.parse_rfc3339_ns("2026-11-24T12:00:00Z")},
	"action": {"protocol": "http"},
	"url": {"segments": segments, "ambiguous": false},
	"attributes": {"request": {"http": {"method": method, "host": "shop.example:443", "headers": {}}}},
}

web(method, segments) := call("spiffe://example.org/ns/shop/sa/web", method, segments)

answer(request) := response if {
	response := authz.allow with input as request with data.doorward as {"actions": catalogue, "workloads": registry}
}

rule(request) := answer(request).rule

test_the_registry_allows if {
	answer(web("GET", ["orders", "7"])) == {
		"allowed": true,
		"rule": "registry",
		"reason": "spiffe://example.org/ns/shop/sa/web may call orders.read",
	}
	rule(web("GET", ["order-history"])) == "registry"
}

test_the_narrowest_action_counts if {
	refund := web("POST", ["orders", "7", "refund"])
	authz.actions == {"orders.refund"} with input as refund with data.doorward.actions as catalogue
	api := call("spiffe://example.org/ns/shop/sa/api", "POST", ["orders", "7"])
	rule(api) == "not_allowed"
	rule(object.union(api, {"attributes": {"request": {"http": {"method": "GET"}}}})) == "registry"
}

test_another_host_is_another_action if {
	elsewhere := object.union(web("GET", ["orders"]), {"attributes": {"request": {"http": {"host": "other.example"}}}})
	authz.actions == {"orders.any"} with input as elsewhere with data.doorward.actions as catalogue
}

test_equally_narrow_actions_all_count if {
	both := {"a": {"match": [{"path": "/x"}]}, "b": {"match": [{"path": "/x"}]}}
	not allowed with data.doorward as {"actions": both, "workloads": {"spiffe://example.org/**": {"allows": ["a"]}}}
	allowed with data.doorward as {"actions": both, "workloads": {"spiffe://example.org/**": {"allows": ["*"]}}}
}

allowed if {
	response := authz.allow with input as web("GET", ["x"])
	response.allowed
}

test_the_narrowest_entry_counts if {
	authz.workload.allows == ["orders.*"] with input as web("GET", []) with data.doorward.workloads as registry
	other := call("spiffe://example.org/ns/shop/sa/other", "GET", [])
	authz.workload.allows == ["orders.read"] with input as other with data.doorward.workloads as registry
	far := call("spiffe://example.org/x", "GET", [])
	authz.workload.allows == ["orders.any"] with input as far with data.doorward.workloads as registry
	rule(call("spiffe://example.org/ns/twice/sa/twice", "GET", ["orders"])) == "unregistered"
}

test_what_no_document_names_is_denied if {
	rule(web("GET", ["else"])) == "unknown_action"
	rule(call("spiffe://other.org/a", "GET", ["orders"])) == "unregistered"
	nothing := authz.allow with input as web("GET", ["orders"]) with data.doorward as {}
	nothing.allowed == false
	empty := authz.allow with input as {} with data.doorward as {}
	empty.allowed == false
}

test_public_actions_need_no_caller if {
	probe := object.remove(web("GET", ["healthz"]), ["peer"])
	rule(probe) == "public"
	rule(object.remove(web("GET", ["orders"]), ["peer"])) == "no_peer"
	rule(object.union(probe, {"url": {"ambiguous": true}})) == "ambiguous_path"
}

test_a_method_that_a_header_replaces_is_denied if {
	headers := {"x-http-method-override": "DELETE"}
	overridden := object.union(web("GET", ["orders"]), {"attributes": {"request": {"http": {"headers": headers}}}})
	rule(overridden) == "method_override"
}

test_a_catalogue_that_cannot_be_read_denies if {
	every match in [{"path": "/x", "method": ["GET"]}, {"methods": ["GET"]}, {"path": "x"}, {"path": 7}] {
		broken := object.union(catalogue, {"broken": {"match": [match]}})
		response := authz.allow with input as web("GET", ["orders"])
			with data.doorward as {"actions": broken, "workloads": registry}
		response.rule == "catalogue"
		response.reason == "entries of the catalogue cannot be read: broken"
	}
}
