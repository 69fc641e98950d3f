# Each namespace lists the namespaces that may call it: tests.
package cookbook.per_namespace_test

import data.cookbook.per_namespace

rule(trust_domain, path) := answer.rule if {
	answer := per_namespace.allow with data.trust_domain as "example.org"
		with data.callers as {"orders": ["example.org/shop"]}
		with input as {"peer": {"trust_domain": trust_domain, "path": path}, "self": {"namespace": "orders"}}
}

test_a_listed_namespace_may_call if rule("example.org", ["ns", "shop", "sa", "web"]) == "listed_namespace"

test_its_own_namespace_may_call if rule("example.org", ["ns", "orders", "sa", "worker"]) == "same_namespace"

test_nobody_else_may_call if {
	rule("example.org", ["ns", "billing", "sa", "web"]) == "namespace"
	rule("other.org", ["ns", "shop", "sa", "web"]) == "namespace"
	rule("other.org", ["ns", "orders", "sa", "worker"]) == "namespace"
	rule("example.org", ["vm", "shop", "sa", "web"]) == "namespace"
	not per_namespace.allow.allowed with input as {"self": {"namespace": "orders"}}
}
