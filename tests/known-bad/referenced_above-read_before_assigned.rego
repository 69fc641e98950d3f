# expect: referenced_above
package authz

allow if {
	input.roles[x] == "admin"
	x := 1
}
