# When: tests.
package guard_test

import data.guard

at(moment) := {"now": {"ns": time.parse_rfc3339_ns(moment)}}

test_before_and_after if {
	guard.is_before("2026-11-24T12:00:01Z") with input as at("2026-11-24T12:00:00Z")
	not guard.is_before("2026-11-24T12:00:00Z") with input as at("2026-11-24T12:00:00Z")
	guard.is_after("2026-11-24T13:00:00+01:00") with input as at("2026-11-24T12:00:00Z")
	not guard.is_after("2026-11-24T12:00:01Z") with input as at("2026-11-24T12:00:00Z")
	not guard.is_before("tomorrow") with input as at("2026-11-24T12:00:00Z")
}

# 24 November 2026 is a Tuesday.
test_a_window_of_office_hours if {
	office := {"from": "08:30", "to": "17:00", "zone": "Europe/Berlin", "days": ["Monday", "Tuesday"]}
	every moment in ["2026-11-24T07:30:00Z", "2026-11-24T15:59:59Z", "2026-11-23T10:00:00Z"] {
		guard.in_window(office) with input as at(moment)
	}
	every moment in ["2026-11-24T07:29:59Z", "2026-11-24T16:00:00Z", "2026-11-25T10:00:00Z"] {
		not guard.in_window(office) with input as at(moment)
	}
}

test_a_window_over_midnight_belongs_to_the_day_it_begins_on if {
	night := {"from": "22:00", "to": "06:00", "days": ["Tuesday"]}
	every moment in ["2026-11-24T22:00:00Z", "2026-11-25T00:00:00Z", "2026-11-25T05:59:59Z"] {
		guard.in_window(night) with input as at(moment)
	}
	every moment in ["2026-11-24T21:59:59Z", "2026-11-25T06:00:00Z", "2026-11-24T05:00:00Z", "2026-11-25T23:00:00Z"] {
		not guard.in_window(night) with input as at(moment)
	}
}

test_a_window_without_days_is_daily if {
	guard.in_window({"from": "00:00", "to": "23:59"}) with input as at("2026-11-24T12:00:00Z")
	not guard.in_window({"from": "00:00", "to": "23:59"}) with input as at("2026-11-24T23:59:00Z")
}

test_a_window_that_cannot_be_read_is_closed if {
	every window in [{}, {"from": "8:00", "to": "17:00"}, {"from": "08:00", "to": "24:00"}, {"from": "00:00", "to": "23:00", "zone": "Moon"}] {
		not guard.in_window(window) with input as at("2026-11-24T12:00:00Z")
	}
}
