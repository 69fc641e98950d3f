# Batch jobs run at night, and during a freeze only the exempt may write.
#
# Data: `windows`, from the SPIFFE ID to {zone, from, to}, in which `to` may lie on the next day; `freezes`, a list of
# {from, to, exempt} in RFC 3339. Who has no window may always call. The moment is the call's, so a record can be
# decided again.
package cookbook.time_windows

default allow := {"allowed": false, "rule": "window", "reason": "outside of the caller's hours"}

allow := {"allowed": true, "rule": "window"} if {
	in_hours
	may_change
}

allow := {"allowed": false, "rule": "freeze", "reason": "changes are frozen"} if {
	in_hours
	not may_change
}

in_hours if {
	input.peer.spiffe_id
	not data.windows[input.peer.spiffe_id]
}

# Clock times of two digits each compare as texts.
in_hours if {
	window := data.windows[input.peer.spiffe_id]
	is_within(time.format([input.now.ns, window.zone, "15:04"]), window.from, window.to)
}

is_within(moment, from, to) if {
	from <= moment
	moment < to
}

is_within(moment, from, to) if {
	to <= from
	moment >= from
}

is_within(moment, from, to) if {
	to <= from
	moment < to
}

may_change if input.attributes.request.http.method in {"GET", "HEAD", "OPTIONS"}

# Each freeze has to be shown not to apply: one that cannot be read stops everybody.
may_change if {
	every freeze in data.freezes { passes(freeze) }
}

passes(freeze) if input.now.ns < time.parse_rfc3339_ns(freeze.from)

passes(freeze) if input.now.ns >= time.parse_rfc3339_ns(freeze.to)

passes(freeze) if input.peer.spiffe_id in freeze.exempt
