# expect: unsafe_negation
package authz

allow if not input.roles[_] == "guest"
