# expect: unsupported
package authz

deny[rule] := input.denied[rule] if some rule, _ in input.denied

default deny.locked := false

allow if not deny.locked
