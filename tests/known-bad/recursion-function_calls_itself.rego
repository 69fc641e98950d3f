# expect: recursion
package authz

allow if f(3)

f(x) := f(x - 1)
