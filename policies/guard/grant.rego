# What the caller is granted.
#
# Questions about `input.grants`: what is granted to the caller now, each with `covers`, which says whether it is for this
# call. A grant permits nothing by itself. Whoever answers by one names it (`grant` in the result), so that it is held
# against the call once more, and counted where it has a number of uses.
package guard

granted if count(covering) > 0

# Id of the grant to rely on; undefined where none covers the call.
grant := covering[0] if granted

covering := [held.id | some held in input.grants; held.covers == true]
