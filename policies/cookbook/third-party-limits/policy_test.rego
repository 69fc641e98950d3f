# A third party gets what its contract names and nothing else: tests.
package cookbook.third_party_limits_test

import data.cookbook.third_party_limits

contract := {
	"until": "2027-06-30T00:00:00Z",
	"paths": ["/orders/*"],
	"methods": ["GET", "POST"],
	"networks": ["192.0.2.0/24"],
	"max_body": 100,
	"max_lifetime_s": 86400,
}

call := {
	"peer": {"trust_domain": "partner.example", "address": "192.0.2.7", "x509": {"lifetime_s": 3600}},
	"now": {"ns": 1795521600000000000},
	"url": {"segments": ["orders", "7"]},
	"attributes": {"request": {"http": {"method": "GET"}}},
	"truncated_body": false,
}

answer(changes, terms) := response if {
	response := third_party_limits.allow with input as object.union(call, changes)
		with data.own_domain as "example.org"
		with data.contracts as {"partner.example": terms}
}

http(changes) := {"attributes": {"request": {"http": changes}}}

test_within_the_contract if {
	answer({}, contract) == {"allowed": true, "rule": "contract", "lease_s": 300}
	answer(http({"size": 100}), contract).allowed
}

test_each_limit_denies_by_its_name if {
	cases := {
		"until": {"now": {"ns": 1830000000000000000}},
		"path": {"url": {"segments": ["orders", "7", "lines"]}},
		"method": http({"method": "DELETE"}),
		"network": {"peer": {"address": "198.51.100.1"}},
		"credential": {"peer": {"x509": {"lifetime_s": 86401}}},
		"body": http({"size": 101}),
	}
	every name, changes in cases {
		answer(changes, contract).reason == sprintf("beyond the contract: %s", [name])
	}
	every changes in [{"truncated_body": true}, http({"size": -1})] {
		answer(changes, contract).reason == "beyond the contract: body"
	}
}

test_a_limit_that_the_contract_leaves_out_denies if {
	every key, _ in contract { not answer({}, object.remove(contract, [key])).allowed }
}

test_others if {
	answer({"peer": {"trust_domain": "example.org"}}, contract).rule == "own"
	answer({"peer": {"trust_domain": "other.example"}}, contract).allowed == false
	not third_party_limits.allow.allowed with input as {}
}
