# A table of routes: which methods below which paths for whom.
#
# Data: `routes`, a list of {path, methods, callers}. In a path `*` is one segment and `**` any number of them; callers
# are SPIFFE IDs in which `*` is one segment too.
package cookbook.method_and_path

default allow := {"allowed": false, "rule": "routes", "reason": "no route allows this call"}

allow := {"allowed": true, "rule": concat(", ", matching)} if count(matching) > 0

matching contains route.path if {
	some route in data.routes
	input.attributes.request.http.method in route.methods
	glob.match(route.path, ["/"], path)
	some pattern in route.callers
	glob.match(pattern, ["/"], input.peer.spiffe_id)
}

# The canonical path, without the query: `/a//b?x=1` is `/a/b`.
path := concat("/", array.concat([""], input.url.segments))
