# Each namespace lists the namespaces that may call it.
#
# Data: `callers`, from the called namespace to the calling ones. The trust domain belongs to the name of a namespace:
# another domain may have a namespace of the same name.
package cookbook.per_namespace

default allow := {"allowed": false, "rule": "namespace", "reason": "the caller's namespace is not on the list"}

allow := {"allowed": true, "rule": "same_namespace"} if caller == here

allow := {"allowed": true, "rule": "listed_namespace"} if {
	caller != here
	caller in data.callers[input.self.namespace]
}

here := sprintf("%s/%s", [data.trust_domain, input.self.namespace])

# spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT becomes DOMAIN/NAMESPACE.
caller := sprintf("%s/%s", [input.peer.trust_domain, input.peer.path[1]]) if {
	input.peer.path[0] == "ns"
	input.peer.path[2] == "sa"
}
