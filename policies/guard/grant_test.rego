# What the caller is granted: tests.
package guard_test

import data.guard

held := [
	{"id": "g1", "actions": ["a"], "covers": false},
	{"id": "g2", "actions": ["b"], "covers": true},
	{"id": "g3", "actions": ["b"], "covers": true},
]

test_the_first_that_covers_the_call_is_taken if {
	guard.granted with input as {"grants": held}
	guard.grant == "g2" with input as {"grants": held}
}

test_what_covers_nothing_grants_nothing if {
	every grants in [[], [held[0]], [{"id": "g4"}], [{"id": "g5", "covers": "yes"}], "x"] {
		not guard.granted with input as {"grants": grants}
		not guard.grant with input as {"grants": grants}
	}
	not guard.granted with input as {}
}
