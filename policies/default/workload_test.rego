# What the registry says about the caller's entry: tests.
package envoy.authz_test

import data.envoy.authz

# The answer to a call that is allowed but for what `entry` adds.
entered(entry) := response if {
	response := authz.allow with input as web("GET", ["order-history"])
		with data.doorward.actions as catalogue
		with data.doorward.workloads as {"spiffe://example.org/**": object.union({"allows": ["orders.*"]}, entry)}
}

test_a_key_that_is_proved_limits_nothing if {
	every entry in [
		{}, {"state": "active"}, {"expires_at": "2026-11-25T00:00:00Z"}, {"environments": ["staging", "production"]},
		{"schedule": {"from": "11:00", "to": "13:00"}}, {"max_credential_lifetime_s": 3600},
		{"third_party": false}, {"third_party": true, "owner": "x", "expires_at": "2026-11-25T00:00:00Z"},
	] {
		entered(entry).rule == "registry"
	}
}

test_a_key_that_is_not_proved_denies if {
	cases := {
		"state": [{"state": "suspended"}, {"state": true}],
		"expired": [{"expires_at": "2026-11-24T12:00:00Z"}, {"expires_at": "soon"}],
		"environment": [{"environments": ["staging"]}, {"environments": "production"}],
		"schedule": [{"schedule": {"from": "13:00", "to": "14:00"}}, {"schedule": "always"}],
		"credential_lifetime": [{"max_credential_lifetime_s": 3599}],
		"third_party": [
			{"third_party": true, "owner": "x"}, {"third_party": true, "expires_at": "2026-11-25T00:00:00Z"},
			{"third_party": true, "owner": "", "expires_at": "2026-11-25T00:00:00Z"},
		],
		"registry_key": [{"expire": "2020-01-01T00:00:00Z"}],
	}
	every rule, entries in cases {
		every entry in entries {
			response := entered(entry)
			response.rule == rule
			response.allowed == false
		}
	}
}

test_strict_actions_want_evidence_of_our_own if {
	refund := web("POST", ["orders", "7", "refund"])
	rule(refund) == "registry"
	rule(object.union(refund, {"peer": {"evidence": "envoy"}})) == "tier"
}
