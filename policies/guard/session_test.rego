# What the caller did before: tests.
package guard_test

import data.guard

second := 1000000000

noon := time.parse_rfc3339_ns("2026-11-24T12:00:00Z")

# Done so many times, the first and the last time so many seconds ago.
counted(n, first, last) := {"n": n, "first_ns": noon - (first * second), "last_ns": noon - (last * second)}

acted := {
	"now": {"ns": noon},
	"action": {"adds": ["egress:external"]},
	"session": {
		"complete": true,
		"labels": ["data:own"],
		"counts": {"orders.read": counted(1, 60, 60), "orders.write": counted(2, 90, 30)},
		"principal": {
			"labels": ["data:customer"],
			"counts": {"orders.read": counted(4, 7200, 60), "orders.refund": counted(3, 7200, 3600)},
		},
	},
}

incomplete := object.union(acted, {"session": {"complete": false}})

test_labels_and_actions_of_session_and_principal if {
	every name in ["data:own", "data:customer", "orders.write", "orders.refund"] {
		guard.touched(name) with input as acted
		not guard.untouched(name) with input as acted
	}
	not guard.touched("data:other") with input as acted
	guard.untouched("data:other") with input as acted
}

test_what_may_be_missing_answers_nothing if {
	every request in [incomplete, {}, object.remove(acted, ["session"])] {
		not guard.touched("data:own") with input as request
		not guard.untouched("data:other") with input as request
		not guard.since("orders.read") with input as request
		not guard.count_in("orders.other", 60) with input as request
	}
}

test_a_label_after_another if {
	guard.adds_after("egress:external", "data:customer") with input as acted
	not guard.adds_after("egress:external", "data:other") with input as acted
	not guard.adds_after("egress:internal", "data:customer") with input as acted
	guard.adds_after("egress:external", "data:other") with input as incomplete
}

test_how_long_ago if {
	guard.since("orders.read") == 60 with input as acted
	guard.since("orders.write") == 30 with input as acted
	not guard.since("orders.other") with input as acted
}

test_how_often if {
	cases := {
		# Exact: the first time lies within.
		["orders.write", 90]: 2, ["orders.read", 7200]: 4, ["orders.refund", 86400]: 3,
		# None: the last time lies before.
		["orders.write", 29]: 0, ["orders.refund", 3599]: 0, ["orders.other", 86400]: 0,
		# In between, all of them.
		["orders.write", 60]: 2, ["orders.read", 60]: 4, ["orders.refund", 3600]: 3,
	}
	every question, answer in cases {
		guard.count_in(question[0], question[1]) == answer with input as acted
	}
	not guard.count_in("orders.read", 86401) with input as acted
}
