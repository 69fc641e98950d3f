# expect: unused_variable
package authz

default allow := false

allow if {
	role := input.role
	input.user == "admin"
}
