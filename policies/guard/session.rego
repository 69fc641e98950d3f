# What the caller did before.
#
# Questions about `input.session`, the call itself left out. They are asked of the session and of its principal
# together, so that another token or certificate sheds nothing. Where something may be missing (`session.complete` is not
# true) all of them are undefined, so deny with `not guard.untouched(…)`: `guard.touched(…)` would not deny then.
package guard

session_is_complete if input.session.complete == true

# The caller has the label, or has done the action within a day.
touched(name) if name in session_labels

touched(name) if count(counts_of(name)) > 0

# Neither, and nothing is missing.
untouched(name) if {
	session_is_complete
	not touched(name)
}

# The call gives its session a label after one that the caller has, or may have.
adds_after(label, earlier) if {
	adds(label)
	not untouched(earlier)
}

# Seconds since the action was done last; undefined where that was not within a day.
since(action) := (now_ns - max(last)) / 1000000000 if {
	last := [counted.last_ns | some counted in counts_of(action)]
	count(last) > 0
}

# How often the action was done within so many seconds, at most a day; of longer it is undefined. Known are the first and
# the last time and how often in all, so the answer is exact where the first time lies within, 0 where the last lies
# before, and in between all of them: it may be too much, never too little.
count_in(action, seconds) := max(array.concat([0], numbers)) if {
	seconds <= 24 * 3600
	from := now_ns - (seconds * 1000000000)
	counts := counts_of(action)
	numbers := [counted.n | some counted in counts; counted.last_ns >= from]
}

# Labels that the session has or its principal.
session_labels contains label if {
	session_is_complete
	some label in input.session.labels
}

session_labels contains label if {
	session_is_complete
	some label in input.session.principal.labels
}

counts_of(action) := array.concat(own, all) if {
	session_is_complete
	own := [counted | counted := input.session.counts[action]]
	all := [counted | counted := input.session.principal.counts[action]]
}
