# Whoever has read customer data sends nothing outside any more: tests.
package cookbook.after_customer_data_test

import data.cookbook.after_customer_data

allowed(action, session) if {
	answer := after_customer_data.allow with input as {
		"action": action,
		"workload": {"registered": true, "allows": [{"actions": ["customer.read", "post.external"]}]},
		"session": object.union({"complete": true, "labels": [], "principal": {"labels": []}}, session),
	}
	answer.allowed
}

read := {"known": true, "name": "customer.read", "adds": ["data:customer"]}

post := {"known": true, "name": "post.external", "adds": ["egress:external"]}

test_each_alone_is_allowed if {
	allowed(read, {})
	allowed(post, {})
	allowed(read, {"labels": ["egress:external"]})
	allowed(read, {"labels": ["data:customer"]})
}

test_nothing_goes_outside_after_customer_data if {
	not allowed(post, {"labels": ["data:customer"]})
	not allowed(post, {"principal": {"labels": ["data:customer"]}})
	not allowed(post, {"complete": false})
}

test_the_registry_has_to_allow_it_too if {
	not allowed({"known": true, "name": "customer.write", "adds": []}, {})
}
