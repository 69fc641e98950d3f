# expect: arity
package authz

allow if f(1, 2, 3)

f(x) := x
