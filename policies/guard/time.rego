# When.
#
# Questions about the moment of the call. They read `input.now`, the one clock of a decision, so that a record can be
# decided again. Times are RFC 3339, clock times `HH:MM`, zones names of the IANA database.
package guard

now_ns := input.now.ns

is_before(moment) if now_ns < time.parse_rfc3339_ns(moment)

is_after(moment) if now_ns >= time.parse_rfc3339_ns(moment)

# `window`: `from` and `to` (up to and without it; `to` may lie on the next day), `zone` (default UTC), `days` that it
# begins on (`["Monday", …]`; default all).
in_window(window) if {
	minute := minute_of_day(window)
	from := minutes(window.from)
	to := minutes(window.to)
	from < to
	minute >= from
	minute < to
	begins_on(window, now_ns)
}

# Over midnight, the evening.
in_window(window) if {
	minute := minute_of_day(window)
	from := minutes(window.from)
	from >= minutes(window.to)
	minute >= from
	begins_on(window, now_ns)
}

# Over midnight, the morning after. Noon of the day before is on the day before in every zone and season.
in_window(window) if {
	minute := minute_of_day(window)
	to := minutes(window.to)
	minutes(window.from) >= to
	minute < to
	begins_on(window, now_ns - ((minute + (12 * 60)) * 60000000000))
}

begins_on(window, ns) if {
	day := time.weekday([ns, zone_of(window)])
	day in object.get(window, "days", [day])
}

zone_of(window) := object.get(window, "zone", "UTC")

minute_of_day(window) := (clock[0] * 60) + clock[1] if clock := time.clock([now_ns, zone_of(window)])

# Minutes since midnight of `HH:MM`.
minutes(text) := (((digits[0] * 600) + (digits[1] * 60)) + (digits[2] * 10)) + digits[3] if {
	regex.match(`^([01][0-9]|2[0-3]):[0-5][0-9]$`, text)
	digits := [to_number(digit) | some digit in split(replace(text, ":", ""), "")]
}
