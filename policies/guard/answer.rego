# What to answer.
#
# The object form of a decision: `rule` is the author's name for what decided, `reason` a sentence for the record.
package guard

allowed(rule) := {"allowed": true, "rule": rule}

denied(rule, reason) := {"allowed": false, "rule": rule, "reason": reason}

# `denials` and `permits` are objects of names to texts. One denial denies, and without a permit nothing is allowed. Of
# several names the alphabetically first becomes `rule`; `reason` holds the texts of all.
decide(denials, _) := denied(min(object.keys(denials)), concat("; ", texts(denials))) if count(denials) > 0

decide(denials, permits) := {"allowed": true, "rule": min(object.keys(permits)), "reason": concat("; ", texts(permits))} if {
	count(denials) == 0
	count(permits) > 0
}

decide(denials, permits) := denied("nothing_allows", "no rule allows this call") if {
	count(denials) == 0
	count(permits) == 0
}

texts(named) := [named[name] | some name in sort(object.keys(named))]
