# In an emergency a named person opens a door for a short time: tests.
package cookbook.break_glass_test

import data.cookbook.break_glass

door := {
	"id": "117",
	"callers": ["spiffe://a/oncall"],
	"paths": ["/admin/**"],
	"from": "2026-11-24T02:00:00Z",
	"until": "2026-11-24T05:00:00Z",
	"opened_by": "kim",
	"approved_by": "sam",
	"ticket": "INC-1",
}

call := {
	"peer": {"spiffe_id": "spiffe://a/oncall"},
	"now": {"ns": 1795489200000000000},
	"url": {"segments": ["admin", "queues"]},
	"attributes": {"request": {"http": {"method": "DELETE", "headers": {"x-break-glass": "INC-1"}}}},
}

answer(changes, terms) := response if {
	response := break_glass.allow with input as object.union(call, changes)
		with data.break_glass as [object.union(door, terms)]
		with data.everyday as ["spiffe://a/desk"]
}

test_an_open_door_is_announced_everywhere if {
	response := answer({}, {})
	response.allowed
	response.rule == "break_glass"
	response.reason == "emergency access 117"
	response.lease_s == 60
	response.dynamic_metadata == {"break_glass": true}
}

test_a_door_is_open_only_as_it_says if {
	changes := [
		{"peer": {"spiffe_id": "spiffe://a/other"}},
		{"now": {"ns": 1795485599999999999}},
		{"now": {"ns": 1795496400000000000}},
		{"url": {"segments": ["orders"]}},
		{"attributes": {"request": {"http": {"headers": {"x-break-glass": "INC-2"}}}}},
	]
	every change in changes { not answer(change, {}).allowed }
}

test_a_door_needs_two_people_a_ticket_and_an_end if {
	terms := [{"approved_by": "kim"}, {"ticket": ""}, {"until": "2026-11-24T06:00:01Z"}, {"until": "never"}]
	every term in terms { not answer({}, term).allowed }
}

test_everyday_access_needs_no_door if {
	desk := {"peer": {"spiffe_id": "spiffe://a/desk"}, "attributes": {"request": {"http": {"method": "GET"}}}}
	answer(desk, {}).rule == "everyday"
	not break_glass.allow.allowed with input as {}
}
