# What the registry says about the caller beside its actions: tests.
package envoy.authz_test

entered(entry) := but({"workload": entry})

test_a_key_that_is_shown_to_hold_limits_nothing if {
	every entry in [
		{}, {"expires_at": "2026-11-25T00:00:00Z"}, {"environments": ["staging", "production"]},
		{"schedule": {"from": "11:00", "to": "13:00", "zone": "UTC"}}, {"limits": {"orders.read": {"per_day": 1}, "orders.write": {"per_day": 0}}},
		{"max_credential_lifetime_s": 3600}, {"max_credential_age_s": 60}, {"third_party": false},
		{"third_party": true, "owner": "x", "expires_at": "2026-11-25T00:00:00Z"},
	] {
		rule(entered(entry)) == "registry"
	}
}

test_a_key_that_is_not_shown_to_hold_denies if {
	cases := {
		"state": [{"state": "suspended"}, {"state": true}],
		"expired": [{"expires_at": "2026-11-24T12:00:00Z"}, {"expires_at": "soon"}],
		"environment": [{"environments": ["staging"]}, {"environments": []}],
		"schedule": [{"schedule": {"from": "13:00", "to": "14:00", "zone": "UTC"}}, {"schedule": "always"}],
		"limit": [{"limits": {"orders.read": {"per_day": 0}}}],
		"credential_lifetime": [{"max_credential_lifetime_s": 3599}],
		"credential_age": [{"max_credential_age_s": 59}],
		"third_party": [
			{"third_party": true, "owner": "x"}, {"third_party": true, "expires_at": "2026-11-25T00:00:00Z"},
			{"third_party": true, "owner": "", "expires_at": "2026-11-25T00:00:00Z"},
		],
	}
	every name, entries in cases {
		every entry in entries {
			rule(entered(entry)) == name
			not allowed(entered(entry))
		}
	}
}

test_a_limit_wants_the_whole_session if {
	limited := {"limits": {"orders.read": {"per_day": 9}}}
	rule(entered(limited)) == "registry"
	rule(object.union(entered(limited), {"session": {"complete": false}})) == "limit"
	rule(object.remove(entered(limited), ["session"])) == "limit"
	rule(object.remove(reads, ["session"])) == "registry"
}

test_what_is_not_known_of_the_credential_denies if {
	unproved := object.remove(reads.peer, ["x509"])
	bare := object.union(object.remove(reads, ["peer"]), {"peer": unproved})
	rule(object.union(bare, {"workload": {"max_credential_lifetime_s": 3600}})) == "credential_lifetime"
	rule(object.union(bare, {"workload": {"max_credential_age_s": 3600}})) == "credential_age"
	rule(bare) == "registry"
	rule(object.union(object.remove(reads, ["workload"]), {"workload": object.remove(reads.workload, ["state"])})) == "state"
}
