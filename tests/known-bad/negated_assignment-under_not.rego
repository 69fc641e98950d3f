# expect: negated_assignment
package authz

allow if not x := input.blocked
