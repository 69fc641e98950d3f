# What the upstream and the client see: identity headers set by us alone, credentials and debug switches taken away.
#
# Data: `teams`, from the SPIFFE ID to the team. Everything a client could have sent under one of our names is
# overwritten or removed, and a denial tells the client where to ask.
package cookbook.header_shaping

default allow := {
	"allowed": false,
	"rule": "team",
	"reason": "the caller belongs to no team",
	"http_status": 403,
	"headers": {"content-type": "application/problem+json"},
	"body": `{"title": "not allowed", "detail": "ask #platform to register this workload"}`,
}

allow := {
	"allowed": true,
	"rule": "team",
	# To the upstream.
	"headers": {"x-caller": input.peer.spiffe_id, "x-team": team},
	"request_headers_to_remove": array.concat(["authorization", "cookie"], debug_headers),
	# In the query: a limit for everybody, and no switches.
	"query_parameters_to_set": {"limit": limit},
	"query_parameters_to_remove": ["debug", "trace"],
	# To the client.
	"response_headers_to_add": {"cache-control": "no-store", "x-served-for": team},
	# For Envoy's access log and rate limits.
	"dynamic_metadata": {"team": team},
} if {
	team
}

team := data.teams[input.peer.spiffe_id]

debug_headers := [name | some name, _ in input.attributes.request.http.headers; startswith(name, "x-debug-")]

default limit := "100"

# What was asked for, where that is one number of at most two digits.
limit := asked if {
	[asked] := input.parsed_query.limit
	regex.match(`^[0-9]{1,2}$`, asked)
}
