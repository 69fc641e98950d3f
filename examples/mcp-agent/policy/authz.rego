# Who may use which tool: the registry says. What may follow what says the catalogue, and doorward holds that by itself.
package envoy.authz

default allow := {"allowed": false, "rule": "not-allowed", "reason": "the registry does not let this agent do that"}

allow := {"allowed": true, "rule": "registry"} if {
	some allowed in input.workload.allows
	some pattern in allowed.actions
	glob.match(pattern, ["."], input.action.name)
}
