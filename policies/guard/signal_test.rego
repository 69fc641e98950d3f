# What is noticed about the caller: tests.
package guard_test

import data.guard

noticed := {
	"signals": [{"name": "off_schedule"}, {"name": "credential_reuse"}],
	"risk": {"score": 55, "level": "medium"},
}

test_signals if {
	guard.signalled("off_schedule") with input as noticed
	guard.credential_reused with input as noticed
	not guard.signalled("burst") with input as noticed
	not guard.credential_reused with input as {"signals": [{"name": "burst"}]}
	not guard.signalled("burst") with input as {}
}

test_risk if {
	every level in ["low", "medium"] { guard.risk_at_least(level) with input as noticed }
	every level in ["medium", "high"] { guard.risk_at_most(level) with input as noticed }
	not guard.risk_at_least("high") with input as noticed
	not guard.risk_at_most("low") with input as noticed
	every level in ["low", "high", "none"] {
		not guard.risk_at_least(level) with input as {}
		not guard.risk_at_most(level) with input as {}
	}
	not guard.risk_at_most("none") with input as noticed
}
