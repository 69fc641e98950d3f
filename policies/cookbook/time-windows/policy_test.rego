# Batch jobs run at night, and during a freeze only the exempt may write: tests.
package cookbook.time_windows_test

import data.cookbook.time_windows

windows := {
	"spiffe://example.org/night": {"zone": "Europe/Berlin", "from": "22:00", "to": "05:00"},
	"spiffe://example.org/day": {"zone": "UTC", "from": "08:00", "to": "18:00"},
	"spiffe://example.org/moon": {"zone": "Moon", "from": "00:00", "to": "23:59"},
}

freezes := [{"from": "2026-12-18T18:00:00Z", "to": "2027-01-04T06:00:00Z", "exempt": ["spiffe://example.org/ledger"]}]

rule(id, method, moment) := answer.rule if {
	request := {
		"peer": {"spiffe_id": id},
		"now": {"ns": time.parse_rfc3339_ns(moment)},
		"attributes": {"request": {"http": {"method": method}}},
	}
	answer := time_windows.allow with input as request with data.windows as windows with data.freezes as freezes
}

allowed(id, clock) if {
	answer := time_windows.allow with input as {
		"peer": {"spiffe_id": id},
		"now": {"ns": time.parse_rfc3339_ns(sprintf("2026-11-24T%s:00Z", [clock]))},
		"attributes": {"request": {"http": {"method": "GET"}}},
	}
		with data.windows as windows
	answer.allowed
}

test_hours_of_the_day if {
	every clock in ["08:00", "17:59"] { allowed("spiffe://example.org/day", clock) }
	every clock in ["07:59", "18:00"] { not allowed("spiffe://example.org/day", clock) }
}

# In November Berlin is an hour ahead of UTC.
test_hours_over_midnight if {
	every clock in ["21:00", "23:30", "00:00", "03:59"] { allowed("spiffe://example.org/night", clock) }
	every clock in ["20:59", "04:00", "12:00"] { not allowed("spiffe://example.org/night", clock) }
}

test_who_has_no_window_may_always_call_and_an_unreadable_one_is_closed if {
	allowed("spiffe://example.org/other", "03:00")
	not allowed("spiffe://example.org/moon", "12:00")
	not time_windows.allow.allowed with input as {}
}

test_a_freeze_stops_writes_but_not_the_exempt if {
	every moment in ["2026-12-18T18:00:00Z", "2027-01-04T05:59:59Z"] {
		rule("spiffe://example.org/other", "POST", moment) == "freeze"
		rule("spiffe://example.org/other", "GET", moment) == "window"
		rule("spiffe://example.org/ledger", "POST", moment) == "window"
	}
	every moment in ["2026-12-18T17:59:59Z", "2027-01-04T06:00:00Z"] {
		rule("spiffe://example.org/other", "POST", moment) == "window"
	}
}
