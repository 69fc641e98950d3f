# A token of the company's login service decides: tests. The tokens were signed once with a key that is not kept.
package cookbook.jwt_claims_test

import data.cookbook.jwt_claims

jwk := {
	"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "2026-11",
	"x": "rTA9vrVSawTSvOFMB6XPDxQ6Ucipux8lZpgsLxr6XGk",
	"y": "L-CM3Fo3Wg8DnxEB4dppqIXIJYcaMSMiVbJVN8TDIws",
}

header := "eyJhbGciOiJFUzI1NiIsImtpZCI6IjIwMjYtMTEiLCJ0eXAiOiJKV1QifQ"

reader := concat(".", [
	header,
	"eyJpc3MiOiJodHRwczovL2xvZ2luLmV4YW1wbGUub3JnIiwiYXVkIjoib3JkZXJzIiwic3ViIjoidS0xNyIsImV4cCI6MTc5NTYwODAwMCwic2NvcGUiOiJvcmRlcnM6cmVhZCJ9",
	"GrStKNqeAUlMdizfUE2e248igY3YfsCZtBBiMbBMIpCT8cpfoqPL3Dh7P_OTrjLZxT4LEw4SMr5skVTfOhVmVg",
])

writer := concat(".", [
	header,
	"eyJpc3MiOiJodHRwczovL2xvZ2luLmV4YW1wbGUub3JnIiwiYXVkIjoib3JkZXJzIiwic3ViIjoidS0xNyIsImV4cCI6MTc5NTYwODAwMCwic2NvcGUiOiJvcmRlcnM6cmVhZCBvcmRlcnM6d3JpdGUifQ",
	"Cst4VkVZ9Gq2CNJdz5jPn-D-f1zc9GU88VAN4Axh_nkfucuSNi6cifMI1PQ_MWSYGtMw9ilLYu0loIWoN3C82w",
])

for_another_audience := concat(".", [
	header,
	"eyJpc3MiOiJodHRwczovL2xvZ2luLmV4YW1wbGUub3JnIiwiYXVkIjoib3RoZXIiLCJzdWIiOiJ1LTE3IiwiZXhwIjoxNzk1NjA4MDAwLCJzY29wZSI6Im9yZGVyczpyZWFkIn0",
	"xe5eiokA7UsBUiLa8LQvwUb71KYN_Pt9HDxtuiWsnSRmeYI-E4armc6Jwx2-nsSzaN1us5THzRpf5rawcF-MRQ",
])

of_another_issuer := concat(".", [
	header,
	"eyJpc3MiOiJodHRwczovL2V2aWwuZXhhbXBsZSIsImF1ZCI6Im9yZGVycyIsInN1YiI6InUtMTciLCJleHAiOjE3OTU2MDgwMDAsInNjb3BlIjoib3JkZXJzOnJlYWQifQ",
	"GAb30iuQZEl8wGv7o1ZSrPN96KdPv9Edja4OBxE3kr5-AvCgMoTYYmvMFwjOAUWBuh-NKFym-zFvMEr0-uoECw",
])

answer(method, authorization, moment) := response if {
	request := {
		"url": {"segments": ["orders", "7"]},
		"now": {"ns": time.parse_rfc3339_ns(moment)},
		"attributes": {"request": {"http": {"method": method, "headers": {"authorization": authorization}}}},
	}
	response := jwt_claims.allow with input as request
		with data.issuers as {"https://login.example.org": {"audience": "orders", "jwks": {"keys": [jwk]}}}
		with data.scopes as {"orders": {"GET": "orders:read", "POST": "orders:write"}}
}

bearer(token) := sprintf("Bearer %s", [token])

in_time := "2026-11-25T11:59:00Z"

too_late := "2026-11-25T12:00:01Z"

test_the_scope_decides if {
	answer("GET", bearer(reader), in_time) == {
		"allowed": true,
		"rule": "scope",
		"headers": {"x-user": "u-17"},
		"request_headers_to_remove": ["authorization"],
	}
	answer("POST", bearer(writer), in_time).allowed
	denied := answer("POST", bearer(reader), in_time)
	denied.reason == "scope orders:write is missing"
	denied.http_status == 403
}

test_a_method_without_a_scope_is_denied if not answer("PUT", bearer(writer), in_time).allowed

test_a_token_that_does_not_hold_is_none if {
	cases := [
		{"authorization": bearer(reader), "moment": too_late},
		{"authorization": bearer(for_another_audience), "moment": in_time},
		{"authorization": bearer(of_another_issuer), "moment": in_time},
		{"authorization": bearer(concat("x", [reader, ""])), "moment": in_time},
		{"authorization": sprintf("Basic %s", [reader]), "moment": in_time},
		{"authorization": "Bearer", "moment": in_time},
		{"authorization": "Bearer a.b.c", "moment": in_time},
	]
	every case in cases {
		denied := answer("GET", case.authorization, case.moment)
		denied.http_status == 401
		denied.allowed == false
	}
}

test_without_a_token_nothing_is_allowed if not jwt_claims.allow.allowed with input as {}
