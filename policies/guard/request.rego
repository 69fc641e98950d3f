# What is called.
#
# Questions about the request: path, method, host, headers, query. They read the canonical path in `input.url`, never
# the raw one, so `/a//b`, `/a/./b` and `/a/b` are one path.
package guard

# Methods that by RFC 9110 section 9.2.1 change nothing.
safe_methods := {"GET", "HEAD", "OPTIONS", "TRACE"}

# Headers by which some servers let another method replace the one in the request line.
override_headers := {"x-http-method-override", "x-http-method", "x-method-override"}

method := input.attributes.request.http.method

method_in(methods) if method in methods

method_is_overridden if {
	some name in override_headers
	header(name)
}

# A gRPC call is a POST and so never a read: name its methods instead.
is_read if {
	method in safe_methods
	not method_is_overridden
}

# `pattern` is a path in which `*` stands for one segment and a last `**` for any number of them, none included.
path_matches(pattern) if {
	startswith(pattern, "/")
	segments_match(input.url.segments, segments(pattern))
}

# No server can read the path in a second way.
path_is_plain if input.url.ambiguous == false

# The parts between slashes, empty ones left out.
segments(path) := [segment | some segment in split(path, "/"); segment != ""]

segments_match(found, pattern) if {
	count(found) == count(pattern)
	every i, segment in pattern { segment in {"*", found[i]} }
}

segments_match(found, pattern) if {
	last := count(pattern) - 1
	pattern[last] == "**"
	count(found) >= last
	every i, segment in array.slice(pattern, 0, last) { segment in {"*", found[i]} }
}

# How narrow a pattern is: of two that match, the one with the larger array says more. Segments that are written out
# count first, then that it has no `**`, then the number of segments.
specificity(pattern) := [count(literal), closed, count(parts)] if {
	parts := segments(pattern)
	literal := [part | some part in parts; not part in {"*", "**"}]
	closed := count([part | some part in parts; part != "**"]) - count(parts)
}

# The host that is asked for: lower case, without port and final dot.
host := trim_suffix(lower(regex.replace(input.attributes.request.http.host, `:[0-9]*$`, "")), ".")

is_grpc if input.action.protocol == "grpc"

# /package.Service/Method
grpc_service := input.url.segments[0] if {
	is_grpc
	count(input.url.segments) == 2
}

grpc_method := input.url.segments[1] if {
	is_grpc
	count(input.url.segments) == 2
}

# `method` may be `*`.
grpc_call_is(service, wanted) if {
	grpc_service == service
	wanted in {"*", grpc_method}
}

# The whole value; a header that was sent twice has a comma in it and equals neither of the two.
header(name) := input.attributes.request.http.headers[lower(name)]

# The members of a header that is a list (RFC 9110 section 5.6.1).
header_list(name) := [trim_space(part) | some part in split(header(name), ",")]

# The credentials of `Authorization: Bearer` (RFC 6750).
bearer_token := token if {
	[scheme, token] := split(header("authorization"), " ")
	lower(scheme) == "bearer"
	token != ""
}

# The value of a query parameter that was given once; of two values a server might take the other.
query(name) := values[0] if {
	values := input.parsed_query[name]
	count(values) == 1
}
