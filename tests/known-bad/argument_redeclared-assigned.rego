# expect: argument_redeclared
package authz

allow if f(1)

f(x) if { x := 1 }
