# In an emergency a named person opens a door for a short time, and nobody can overlook it.
#
# Data: `break_glass`, a list of {id, callers, paths, from, until, opened_by, approved_by, ticket}; it is part of the
# policy's bundle, so opening a door is a reviewed change. A door is open for four hours at most, needs two people, and
# each call must name its ticket in `x-break-glass`.
package cookbook.break_glass

max_ns := ((4 * 3600) * 1000) * 1000000

default allow := {"allowed": false, "rule": "everyday", "reason": "neither everyday access nor an open door"}

allow := {"allowed": true, "rule": "everyday"} if everyday

allow := {
	"allowed": true,
	"rule": "break_glass",
	"reason": sprintf("emergency access %s", [concat(", ", doors)]),
	"lease_s": 60,
	"headers": {"x-break-glass-id": concat(",", doors)},
	"response_headers_to_add": {"x-break-glass": "open"},
	"dynamic_metadata": {"break_glass": true},
} if {
	not everyday
	count(doors) > 0
}

everyday if {
	input.attributes.request.http.method == "GET"
	input.peer.spiffe_id in data.everyday
}

doors contains door.id if {
	some door in data.break_glass
	is_open(door)
	input.peer.spiffe_id in door.callers
	some path in door.paths
	glob.match(path, ["/"], concat("/", array.concat([""], input.url.segments)))
	input.attributes.request.http.headers["x-break-glass"] == door.ticket
}

is_open(door) if {
	from := time.parse_rfc3339_ns(door.from)
	until := time.parse_rfc3339_ns(door.until)
	until - from <= max_ns
	input.now.ns >= from
	input.now.ns < until
	door.opened_by != door.approved_by
	door.ticket != ""
}
