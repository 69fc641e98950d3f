# expect: referenced_above
package authz

allow if {
	x := x + 1
	x == 2
}
