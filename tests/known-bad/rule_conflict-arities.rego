# expect: rule_conflict
package authz

f(x) := x

f(x, y) := x + y

allow if f(1) == 1
