# A stricter rule comes into force caller by caller: tests.
package cookbook.canary_by_observe_test

import data.cookbook.canary_by_observe

call(name, method, lifetime) := {
	"peer": {
		"spiffe_id": sprintf("spiffe://example.org/%v", [name]),
		"trust_domain": "example.org",
		"x509": {"lifetime_s": lifetime},
	},
	"attributes": {"request": {"http": {"method": method}}},
}

answer(request, percent) := response if {
	response := canary_by_observe.allow with input as request
		with data.canary as {"enforced": ["spiffe://example.org/web"], "percent": percent}
}

test_what_both_rules_allow if {
	answer(call("web", "GET", 86400), 0).rule == "new"
	answer(call("web", "POST", 3600), 100).rule == "new"
}

test_in_the_canary_the_new_rule_denies if {
	denied := answer(call("web", "POST", 86400), 0)
	denied.allowed == false
	denied.rule == "new"
	answer(call("other", "POST", 86400), 100).allowed == false
}

test_outside_it_only_tells if {
	told := answer(call("other", "POST", 86400), 0)
	told.allowed
	told.dynamic_metadata == {"canary": "would_deny"}
}

test_the_old_rule_stays if {
	answer({}, 100).allowed == false
	answer({"peer": {"trust_domain": "other.org"}}, 0).rule == "old"
}

test_the_share_is_about_what_was_asked_for if {
	denied := [n | some n in numbers.range(1, 200); not answer(call(n, "POST", 86400), 25).allowed]
	count(denied) > 30
	count(denied) < 70
}
