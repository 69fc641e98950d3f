# expect: shadowed
package authz

default allow := false

user := input.user

allow if {
	user := "admin"
	user == input.name
}
