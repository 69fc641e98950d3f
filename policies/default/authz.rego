# The default policy: decides from documents alone, so that an operator can start without writing Rego.
#
# `data.doorward.actions` says what can be called and `data.doorward.workloads` who may call it; both are described in
# policies/README.md. What no document names is denied, and so is what a document says in a way that cannot be read:
# each condition below has to be proved, none has to be refuted.
package envoy.authz

import data.guard

allow := guard.decide(denials, permits)

# Every action of the catalogue that the request matches; of several the narrowest count.
matching[name] := max(ranks) if {
	some name, action in data.doorward.actions
	ranks := [rank(match) | some match in action.match; request_matches(match)]
	count(ranks) > 0
}

actions contains name if {
	some name, width in matching
	width == max([other | some other in matching])
}

request_matches(match) if {
	guard.path_matches(match.path)
	method_fits(match)
	host_fits(match)
}

unreadable contains name if {
	some name, action in data.doorward.actions
	not is_readable(action)
}

is_readable(action) if {
	every match in action.match {
		startswith(match.path, "/")
		object.keys(match) - {"path", "methods", "host"} == set()
	}
}

# Narrower paths first, then how much else is asked.
rank(match) := [guard.specificity(match.path), count(match)]

method_fits(match) if not "methods" in object.keys(match)

method_fits(match) if guard.method_in(match.methods)

host_fits(match) if not "host" in object.keys(match)

host_fits(match) if match.host == guard.host

# The entry of the caller: that of its own SPIFFE ID, else the narrowest pattern, unless two are equally narrow.
workload := data.doorward.workloads[input.peer.spiffe_id]

workload := entry if {
	not data.doorward.workloads[input.peer.spiffe_id]
	[only] := [pattern | some pattern, width in patterns; width == max([other | some other in patterns])]
	entry := data.doorward.workloads[only]
}

patterns[pattern] := guard.specificity(pattern) if {
	some pattern, _ in data.doorward.workloads
	guard.peer_matches(pattern)
}

# An action that asks for no evidence is open to everybody: probes and public routes.
is_public if {
	count(actions) > 0
	every name in actions { data.doorward.actions[name].evidence == "none" }
}

may_call if {
	count(actions) > 0
	every name in actions {
		some allowed in workload.allows
		glob.match(allowed, ["."], name)
	}
}

permits["public"] := "the action is open to everybody" if is_public

permits["registry"] := sprintf("%s may call %s", [input.peer.spiffe_id, concat(", ", actions)]) if {
	not is_public
	may_call
}

denials["no_peer"] := guard.no_peer_text if {
	not is_public
	not guard.has_peer
}

denials["unknown_action"] := "no action of the catalogue matches the request" if count(actions) == 0

# A match that cannot be read was meant to narrow something: no other action may take its calls.
denials["catalogue"] := sprintf("entries of the catalogue cannot be read: %s", [concat(", ", unreadable)]) if {
	count(unreadable) > 0
}

denials["ambiguous_path"] := "the path can be read in two ways" if not guard.path_is_plain

denials["method_override"] := "a header asks for another method" if guard.method_is_overridden

denials["unregistered"] := sprintf("%s is not registered, or by two patterns alike", [input.peer.spiffe_id]) if {
	not is_public
	guard.has_peer
	not workload
}

denials["not_allowed"] := sprintf("%s may not call %s", [input.peer.spiffe_id, concat(", ", actions)]) if {
	not is_public
	workload
	count(actions) > 0
	not may_call
}
