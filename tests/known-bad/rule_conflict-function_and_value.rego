# expect: rule_conflict
package authz

limit(x) := x

limit := 3

allow if limit(1) < 2
