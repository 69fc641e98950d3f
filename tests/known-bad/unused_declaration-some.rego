# expect: unused_declaration
package authz

allow if {
	some user
	input.user == "admin"
}
