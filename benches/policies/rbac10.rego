# Ten rules as a team writes them first: who may do what to which part of the API.
package envoy.authz

import rego.v1

default allow := false

allow if {
	input.peer.spiffe_id == "spiffe://bench.example/ns/web/sa/frontend"
	input.attributes.request.http.method == "GET"
	input.parsed_path[0] == "api"
	input.parsed_path[2] == "catalogue"
}

allow if {
	input.peer.spiffe_id == "spiffe://bench.example/ns/web/sa/frontend"
	input.attributes.request.http.method in {"GET", "POST"}
	input.parsed_path[0] == "api"
	input.parsed_path[2] == "baskets"
}

allow if {
	input.peer.spiffe_id == "spiffe://bench.example/ns/stock/sa/inventory"
	input.attributes.request.http.method == "PUT"
	input.parsed_path[0] == "api"
	input.parsed_path[2] == "catalogue"
}

allow if {
	startswith(input.peer.spiffe_id, "spiffe://bench.example/ns/batch/")
	input.attributes.request.http.method == "GET"
	input.parsed_path[0] == "export"
}

allow if {
	input.peer.spiffe_id == "spiffe://bench.example/ns/shop/sa/checkout"
	input.attributes.request.http.method in {"GET", "POST"}
	input.parsed_path[0] == "api"
	input.parsed_path[2] == "orders"
}

allow if {
	input.peer.spiffe_id == "spiffe://bench.example/ns/shop/sa/checkout"
	input.attributes.request.http.method == "POST"
	input.parsed_path[0] == "api"
	input.parsed_path[2] == "payments"
}

allow if {
	input.peer.spiffe_id == "spiffe://bench.example/ns/ship/sa/dispatch"
	input.attributes.request.http.method in {"GET", "PATCH"}
	input.parsed_path[0] == "api"
	input.parsed_path[2] == "orders"
	input.parsed_path[4] == "shipment"
}

allow if {
	input.peer.spiffe_id == "spiffe://bench.example/ns/support/sa/desk"
	input.attributes.request.http.method == "GET"
	input.parsed_path[0] == "api"
	not input.parsed_query.card
}

allow if {
	input.peer.trust_domain == "bench.example"
	input.attributes.request.http.method == "GET"
	input.parsed_path == ["healthz"]
}

allow if {
	input.peer.spiffe_id == "spiffe://bench.example/ns/ops/sa/admin"
	input.parsed_path[0] == "internal"
	input.attributes.request.http.headers["x-change-ticket"] != ""
}
