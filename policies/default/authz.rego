# The default policy: decides from documents alone, so that an operator can start without writing Rego.
#
# `data.doorward.actions` says what can be called and `data.doorward.workloads` who may call it; both are described in
# policies/README.md. Doorward finds the action and the caller's entry in them, and enforces tiers and labels before this is
# asked. What no document names is denied: each condition below has to be shown to hold, none has to be refuted.
package envoy.authz

import data.guard

allow := object.union(guard.decide(denials, permits), more)

# What the caller may not do by the registry, it may by a grant; and that it may ask for one is said where nothing else stands
# against it.
more["grant"] := guard.grant if by_grant

more["requestable"] if object.keys(denials) == {"not_allowed"}

by_grant if {
	guard.granted
	not guard.may(input.action.name)
}

permits["public"] := "the action is open to everybody" if guard.action_is_public

permits["registry"] := sprintf("%s may call %s", [input.peer.spiffe_id, input.action.name]) if {
	guard.action_is_known
	guard.may(input.action.name)
}

permits["grant"] := sprintf("grant %s is for this call", [guard.grant]) if by_grant

denials["unknown_action"] := "no action of the catalogue matches the request" if not guard.action_is_known

denials["ambiguous_path"] := "the path can be read in two ways" if input.url.ambiguous

denials["method_override"] := "a header asks for another method" if guard.method_is_overridden

denials["no_peer"] := guard.no_peer_text if {
	not guard.action_is_public
	not guard.has_peer
}

denials["unregistered"] := sprintf("%s is not registered", [input.peer.spiffe_id]) if {
	not guard.action_is_public
	not guard.registered
}

denials["not_allowed"] := sprintf("%s may not call %s", [input.peer.spiffe_id, input.action.name]) if {
	not guard.action_is_public
	guard.registered
	not guard.may(input.action.name)
	not by_grant
}
