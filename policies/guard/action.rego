# What is done.
#
# Questions about `input.action`, which doorward has found in the catalogue (`data.doorward.actions`). A request that
# the catalogue does not list, or that can be read in two ways, is no known action.
package guard

action_is_known if input.action.known == true

# `pattern` is the name of an action or a glob over it: `orders.*` stops at dots, `**` does not.
action_is(pattern) if {
	action_is_known
	glob.match(pattern, ["."], input.action.name)
}

# The action is open to everybody: `evidence: none` in the catalogue.
action_is_public if {
	action_is_known
	input.action.public == true
}

# The action gives its session the label.
adds(label) if label in input.action.adds
