# expect: unsafe_negation
package authz

allow if {
	some i
	not input.roles[i] == "guest"
}
