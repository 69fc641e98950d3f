# The default policy: tests.
package envoy.authz_test

import data.envoy.authz

web := "spiffe://example.org/ns/shop/sa/web"

# A registered caller reads an order.
reads := {
	"peer": {"spiffe_id": web, "evidence": "sidecar", "x509": {"age_s": 60, "lifetime_s": 3600}},
	"self": {"environment": "production"},
	"now": {"ns": time.parse_rfc3339_ns("2026-11-24T12:00:00Z")},
	"action": {"protocol": "http", "known": true, "name": "orders.read", "class": "read", "tier": "standard", "public": false},
	"url": {"segments": ["orders", "7"], "ambiguous": false},
	"attributes": {"request": {"http": {"method": "GET", "host": "shop.example", "headers": {}}}},
	"workload": {"registered": true, "state": "active", "third_party": false, "allows": [{"actions": ["orders.*"]}]},
	"session": {"complete": true, "labels": [], "counts": {}, "principal": {"labels": [], "counts": {}}},
}

but(change) := object.union(reads, change)

rule(request) := name if name := authz.allow.rule with input as request

allowed(request) if authz.allow.allowed == true with input as request

test_the_registry_allows if {
	answer := authz.allow with input as reads
	answer == {"allowed": true, "rule": "registry", "reason": "spiffe://example.org/ns/shop/sa/web may call orders.read"}
}

test_what_the_registry_does_not_allow_is_denied if {
	other := but({"action": {"name": "ledger.append"}})
	rule(other) == "not_allowed"
	not allowed(other)
	rule(but({"workload": {"allows": []}})) == "not_allowed"
	rule(but({"workload": {"allows": [{"actions": ["orders.*"], "classes": ["write"]}]}})) == "not_allowed"
}

test_what_no_document_names_is_denied if {
	unknown := but({"action": {"known": false}})
	rule(unknown) == "unknown_action"
	not allowed(unknown)
	rule(but({"workload": {"registered": false}})) == "unregistered"
	rule(object.remove(reads, ["workload"])) == "unregistered"
	not allowed(object.remove(reads, ["action"]))
	not allowed({})
}

test_public_actions_need_no_caller if {
	probe := object.remove(but({"action": {"name": "health", "public": true}}), ["peer", "workload"])
	rule(probe) == "public"
	allowed(probe)
	rule(object.remove(reads, ["peer"])) == "no_peer"
	suspended := but({"action": {"name": "health", "public": true}, "workload": {"state": "suspended"}})
	rule(suspended) == "public"
}

test_no_one_is_told_why_without_a_peer if {
	answer := authz.allow with input as object.union(object.remove(reads, ["peer"]), {"peer_error": "no_uri_san"})
	answer.reason == "the caller's certificate is refused: no_uri_san"
}

test_a_request_that_says_two_things_is_denied if {
	ambiguous := but({"url": {"ambiguous": true}, "action": {"known": false}})
	rule(ambiguous) == "ambiguous_path"
	overridden := but({
		"action": {"known": false},
		"attributes": {"request": {"http": {"headers": {"x-http-method-override": "DELETE"}}}},
	})
	rule(overridden) == "method_override"
}

granted := {"grants": [{"id": "g1", "actions": ["ledger.append"], "covers": true}]}

test_a_grant_allows_what_the_registry_does_not if {
	request := object.union(but({"action": {"name": "ledger.append"}}), granted)
	answer := authz.allow with input as request
	answer == {"allowed": true, "rule": "grant", "reason": "grant g1 is for this call", "grant": "g1"}
	other := object.union(request, {"grants": [{"id": "g1", "covers": false}]})
	rule(other) == "not_allowed"
	suspended := object.union(request, {"workload": {"state": "suspended"}})
	not allowed(suspended)
}

test_what_the_registry_allows_uses_no_grant if {
	answer := authz.allow with input as object.union(reads, granted)
	answer.rule == "registry"
	not answer.grant
}

test_a_grant_may_be_asked_for_where_nothing_else_is_wrong if {
	answer := authz.allow with input as but({"action": {"name": "ledger.append"}})
	answer.requestable == true
	wrong := authz.allow with input as but({"action": {"name": "ledger.append"}, "url": {"ambiguous": true}})
	not wrong.requestable
	unregistered := authz.allow with input as but({"workload": {"registered": false}})
	not unregistered.requestable
}
