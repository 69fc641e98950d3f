# Which workload may call which gRPC method.
#
# Data: `grpc`, from the full name of a service to its methods, from each method to SPIFFE IDs; `*` stands for every
# method that is not named. A gRPC call is a POST to /package.Service/Method, and nothing else is let through.
package cookbook.grpc_methods

default allow := {"allowed": false, "rule": "grpc", "reason": "the caller may not call this method"}

allow := {"allowed": true, "rule": sprintf("%s/%s", [service, method])} if input.peer.spiffe_id in callers

# Health checks come from the platform, which has no identity in the mesh.
allow := {"allowed": true, "rule": "health"} if {
	service == "grpc.health.v1.Health"
	method in {"Check", "Watch"}
}

service := input.url.segments[0] if is_call

method := input.url.segments[1] if is_call

is_call if {
	input.action.protocol == "grpc"
	count(input.url.segments) == 2
}

callers := data.grpc[service][method]

callers := data.grpc[service]["*"] if not data.grpc[service][method]
