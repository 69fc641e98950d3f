# expect: unsupported
package authz

deny[rule] := input.denied[rule] if some rule, _ in input.denied

deny.locked := true if input.locked

allow if not deny.locked
