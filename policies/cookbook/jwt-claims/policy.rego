# A token of the company's login service decides, by its claims.
#
# Data: `issuers`, from the issuer to the audience it must name and its keys (a JSON Web Key Set); `scopes`, from the
# first segment of the path to the scope for each method. Signature, issuer, audience and times are checked at once, and
# no claim is looked at before.
package cookbook.jwt_claims

default allow := {"allowed": false, "rule": "token", "reason": "no valid token", "http_status": 401}

allow := {"allowed": false, "rule": "scope", "reason": sprintf("scope %s is missing", [wanted]), "http_status": 403} if {
	claims
	not wanted in scopes
}

# The upstream learns who it is, and never sees the token.
allow := {
	"allowed": true,
	"rule": "scope",
	"headers": {"x-user": claims.sub},
	"request_headers_to_remove": ["authorization"],
} if {
	wanted in scopes
}

token := parts[1] if {
	parts := split(input.attributes.request.http.headers.authorization, " ")
	count(parts) == 2
	lower(parts[0]) == "bearer"
}

claims := verified if {
	# Only to find the keys; it is verified below.
	[_, unverified, _] := io.jwt.decode(token)
	issuer := data.issuers[unverified.iss]
	[valid, _, verified] := io.jwt.decode_verify(token, {
		"iss": unverified.iss,
		"aud": issuer.audience,
		"cert": json.marshal(issuer.jwks),
		"time": input.now.ns,
	})
	valid
}

scopes := split(claims.scope, " ")

wanted := data.scopes[input.url.segments[0]][input.attributes.request.http.method]
