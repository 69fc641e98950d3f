# What the upstream and the client see: tests.
package cookbook.header_shaping_test

import data.cookbook.header_shaping

answer(request) := response if {
	response := header_shaping.allow with input as object.union({"peer": {"spiffe_id": "spiffe://a/web"}}, request)
		with data.teams as {"spiffe://a/web": "shop"}
}

headers(found) := {"attributes": {"request": {"http": {"headers": found}}}}

test_identity_is_ours if {
	response := answer(headers({"x-caller": "spiffe://a/admin", "x-team": "admin"}))
	response.allowed
	response.headers == {"x-caller": "spiffe://a/web", "x-team": "shop"}
	response.response_headers_to_add == {"cache-control": "no-store", "x-served-for": "shop"}
	response.dynamic_metadata == {"team": "shop"}
}

test_credentials_and_debug_switches_go if {
	response := answer(headers({"x-debug-level": "9", "accept": "*/*"}))
	response.request_headers_to_remove == ["authorization", "cookie", "x-debug-level"]
	response.query_parameters_to_remove == ["debug", "trace"]
}

test_the_limit if {
	limits := [[["7"], "7"], [["99"], "99"], [["100"], "100"], [["1000"], "100"], [["7", "8"], "100"], [["x"], "100"]]
	every case in limits {
		answer({"parsed_query": {"limit": case[0]}}).query_parameters_to_set == {"limit": case[1]}
	}
	answer({}).query_parameters_to_set == {"limit": "100"}
}

test_a_denial_says_where_to_ask if {
	response := answer({"peer": {"spiffe_id": "spiffe://a/other"}})
	response.allowed == false
	response.http_status == 403
	json.unmarshal(response.body).title == "not allowed"
}
