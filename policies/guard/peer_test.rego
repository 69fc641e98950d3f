# Who calls: tests.
package guard_test

import data.guard

web := {"peer": {
	"spiffe_id": "spiffe://example.org/ns/shop/sa/web",
	"trust_domain": "example.org",
	"path": ["ns", "shop", "sa", "web"],
	"evidence": "sidecar",
	"x509": {"lifetime_s": 3600, "age_s": 60},
}}

test_a_kubernetes_id_has_namespace_and_account if {
	guard.has_peer with input as web
	guard.peer_namespace == "shop" with input as web
	guard.peer_service_account == "web" with input as web
	guard.peer_in_namespace("example.org", "shop") with input as web
}

test_a_namespace_belongs_to_its_trust_domain if {
	not guard.peer_in_namespace("other.org", "shop") with input as web
	not guard.peer_in_namespace("example.org", "other") with input as web
}

test_other_ids_have_no_namespace if {
	every path in [["shop"], ["ns", "shop"], ["ns", "shop", "xx", "web"], ["xx", "shop", "sa", "web"], ["ns", "shop", "sa", "web", "x"]] {
		not guard.peer_namespace with input as {"peer": {"path": path}}
	}
}

test_patterns if {
	every pattern in [
		"spiffe://example.org/ns/shop/sa/web", "spiffe://example.org/ns/*/sa/web",
		"spiffe://example.org/**", "spiffe://*/ns/shop/**", "spiffe://example.org/ns/shop/sa/web/**",
	] {
		guard.peer_matches(pattern) with input as web
	}
	every pattern in [
		"spiffe://example.org", "spiffe://example.org/ns/shop/sa/*/x", "spiffe://other.org/**", "example.org/**",
		"spiffe://example.org/ns/sh*/sa/web", "spiffe://**/web",
	] {
		not guard.peer_matches(pattern) with input as web
	}
}

test_evidence_and_credential if {
	guard.peer_proved_here with input as web
	guard.credential_lives_at_most(3600) with input as web
	not guard.credential_lives_at_most(3599) with input as web
	guard.credential_is_younger_than(61) with input as web
	not guard.credential_is_younger_than(60) with input as web
}

test_nobody_has_nothing if {
	not guard.has_peer with input as {}
	not guard.peer_in_trust_domain("example.org") with input as {}
	not guard.peer_matches("spiffe://**") with input as {}
	not guard.peer_proved_here with input as {}
	not guard.credential_lives_at_most(9999999999) with input as {}
}

test_what_is_told_without_a_peer if {
	guard.no_peer_text == "the caller has no certificate" with input as {}
	guard.no_peer_text == "the caller's certificate is refused: no_uri_san" with input as {"peer_error": "no_uri_san"}
}
