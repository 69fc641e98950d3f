# What to answer: tests.
package guard_test

import data.guard

test_one_denial_denies if {
	guard.decide({"b": "two", "a": "one"}, {"c": "three"}) == {"allowed": false, "rule": "a", "reason": "one; two"}
}

test_a_permit_allows if {
	guard.decide({}, {"c": "three", "b": "two"}) == {"allowed": true, "rule": "b", "reason": "two; three"}
}

test_nothing_allows_nothing if {
	guard.decide({}, {}) == {"allowed": false, "rule": "nothing_allows", "reason": "no rule allows this call"}
}

test_plain_answers if {
	guard.allowed("x") == {"allowed": true, "rule": "x"}
	guard.denied("x", "y") == {"allowed": false, "rule": "x", "reason": "y"}
}
