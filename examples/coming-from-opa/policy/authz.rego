# Written for opa-envoy-plugin, and neither this file nor the input it reads knows anything of Doorward.
package envoy.authz

import input.attributes.request.http as http_request

default allow := false

# Whoever wants to know whether the service lives.
allow if {
	http_request.method == "GET"
	input.parsed_path == ["health"]
}

# Readers and clerks read orders.
allow if {
	http_request.method == "GET"
	glob.match("/orders{,/*}", ["/"], concat("/", array.concat([""], input.parsed_path)))
	claims.role in {"reader", "clerk"}
}

# Clerks place orders that are not too large.
allow if {
	http_request.method == "POST"
	input.parsed_path == ["orders"]
	claims.role == "clerk"
	input.parsed_body.amount <= 1000
}

# The claims of the bearer token, if it is signed by us and still good.
claims := payload if {
	[scheme, encoded] := split(http_request.headers.authorization, " ")
	lower(scheme) == "bearer"
	[valid, _, payload] := io.jwt.decode_verify(encoded, {"secret": "not-a-secret-in-an-example", "alg": "HS256"})
	valid
}

result["allowed"] := allow

result["headers"] := {"x-user": claims.sub, "x-role": claims.role} if allow

result["headers"] := {"www-authenticate": "Bearer"} if {
	not allow
	not claims
}

result["request_headers_to_remove"] := ["authorization"] if allow

result["response_headers_to_add"] := {"x-policy": "orders"} if allow

result["http_status"] := 401 if {
	not allow
	not claims
}

result["body"] := sprintf("%s may not %s this\n", [claims.sub, http_request.method]) if not allow
