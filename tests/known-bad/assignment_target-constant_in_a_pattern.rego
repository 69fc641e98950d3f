# expect: assignment_target
package authz

allow if [1, x] := input.pair
