# What the registry says of the caller: tests.
package guard_test

import data.guard

# A call by an entry of the registry.
entered(entry) := {
	"workload": object.union({"registered": true, "state": "active"}, entry),
	"self": {"environment": "production"},
	"now": {"ns": time.parse_rfc3339_ns("2026-11-24T12:00:00Z")},
	"action": {"class": "read", "resource": {"type": "order", "id": "eu-7", "tenant": "acme"}},
	"session": {"complete": true, "counts": {}, "principal": {"counts": {}}},
}

test_who_is_registered if {
	guard.registered with input as entered({})
	not guard.registered with input as {"workload": {"registered": false}}
	not guard.registered with input as {}
}

test_a_registration_holds_while_it_is_active if {
	guard.registration_holds with input as entered({})
	guard.registration_holds with input as entered({"expires_at": "2026-11-24T12:00:01Z"})
	every entry in [{"state": "suspended"}, {"expires_at": "2026-11-24T12:00:00Z"}, {"expires_at": "soon"}] {
		not guard.registration_holds with input as entered(entry)
	}
}

test_what_it_may_do if {
	every allow in [
		{"actions": ["orders.read"]}, {"actions": ["x", "orders.*"]}, {"actions": ["**"]},
		{"actions": ["**"], "classes": ["write", "read"]},
		{"actions": ["**"], "resources": ["invoice", "order"]},
		{"actions": ["**"], "resources": ["order/eu-*"]},
		{"actions": ["**"], "tenants": ["acme"]},
		{"actions": ["**"], "environments": ["production"]},
	] {
		guard.may("orders.read") with input as entered({"allows": [{"actions": ["other"]}, allow]})
	}
}

test_what_it_may_not_do if {
	every allow in [
		{"actions": []}, {"actions": ["orders.write", "orders", "*"]}, {},
		{"actions": ["**"], "classes": ["write"]}, {"actions": ["**"], "classes": []},
		{"actions": ["**"], "resources": ["invoice", "order/us-*", "*"]},
		{"actions": ["**"], "tenants": ["globex"]},
		{"actions": ["**"], "environments": ["staging"]},
		{"actions": ["**"], "classes": ["read"], "tenants": ["globex"]},
	] {
		not guard.may("orders.read") with input as entered({"allows": [allow]})
	}
}

test_what_is_not_known_fits_no_list if {
	bare := {"workload": entered({}).workload}
	every key in ["classes", "resources", "tenants", "environments"] {
		not guard.may("x") with input as object.union(bare, {"workload": {"allows": [{"actions": ["**"], key: ["**", ""]}]}})
	}
	guard.may("x") with input as object.union(bare, {"workload": {"allows": [{"actions": ["**"]}]}})
	not guard.may("x") with input as {}
}

test_environments if {
	guard.in_its_environment with input as entered({})
	guard.in_its_environment with input as entered({"environments": ["staging", "production"]})
	not guard.in_its_environment with input as entered({"environments": ["staging"]})
	not guard.in_its_environment with input as {"self": {"environment": "production"}}
}

test_schedules if {
	guard.on_schedule with input as entered({})
	guard.on_schedule with input as entered({"schedule": {"from": "11:00", "to": "13:00", "zone": "UTC"}})
	not guard.on_schedule with input as entered({"schedule": {"from": "13:00", "to": "14:00", "zone": "UTC"}})
	not guard.on_schedule with input as {}
}

# The same call after five others within the day.
after_five(entry) := object.union(entered(entry), {"session": {"principal": {"counts": {"orders.read": counted(5, 7, 1)}}}})

test_limits if {
	guard.within_limit("orders.read") with input as after_five({})
	guard.within_limit("orders.read") with input as after_five({"limits": {"orders.read": {"per_day": 6}}})
	guard.within_limit("orders.read") with input as entered({"limits": {"orders.read": {"per_day": 1}}})
	every limit in [{"per_day": 5}, {"per_day": 0}, {"per_day": "6"}, {}, 6] {
		not guard.within_limit("orders.read") with input as after_five({"limits": {"orders.read": limit}})
	}
	unsure := object.union(entered({"limits": {"orders.read": {"per_day": 6}}}), {"session": {"complete": false}})
	not guard.within_limit("orders.read") with input as unsure
	not guard.within_limit("orders.read") with input as {}
}
