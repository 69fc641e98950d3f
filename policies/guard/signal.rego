# What is noticed about the caller.
#
# Questions about `input.signals` and `input.risk`. What is not noticed is not there: these tell what speaks against a
# caller, and nothing speaks for one.
package guard

# `name` is one of the names in `data.doorward.signals`.
signalled(name) if {
	some signal in input.signals
	signal.name == name
}

# Another workload presented the caller's credential before, or the caller another's.
credential_reused if signalled("credential_reuse")

levels := {"low": 0, "medium": 1, "high": 2}

risk_at_least(level) if levels[input.risk.level] >= levels[level]

# Undefined where nobody has weighed the caller: without a proved peer.
risk_at_most(level) if levels[input.risk.level] <= levels[level]
