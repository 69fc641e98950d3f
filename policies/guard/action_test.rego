# What is done: tests.
package guard_test

import data.guard

read := {"action": {"known": true, "name": "orders.read", "adds": ["data:order"]}}

test_names_and_globs if {
	guard.action_is_known with input as read
	every pattern in ["orders.read", "orders.*", "**", "*.read"] {
		guard.action_is(pattern) with input as read
	}
	every pattern in ["orders", "*", "orders.write", "orders.read.*"] {
		not guard.action_is(pattern) with input as read
	}
}

test_what_is_not_known_is_nothing if {
	every request in [{}, {"action": {"known": false, "name": "orders.read", "public": true}}] {
		not guard.action_is_known with input as request
		not guard.action_is("**") with input as request
		not guard.action_is_public with input as request
	}
}

test_public_actions if {
	guard.action_is_public with input as object.union(read, {"action": {"public": true}})
	not guard.action_is_public with input as object.union(read, {"action": {"public": false}})
	not guard.action_is_public with input as read
}

test_labels_of_the_action if {
	guard.adds("data:order") with input as read
	not guard.adds("data:other") with input as read
	not guard.adds("data:order") with input as {}
}
