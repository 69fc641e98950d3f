# expect: redeclared
package authz

allow if {
	x := input.a
	x := input.b
	x == 1
}
