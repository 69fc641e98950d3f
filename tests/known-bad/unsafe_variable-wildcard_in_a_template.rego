# expect: unsafe_variable
package authz

allow if $"{input.roles[_]}" == "admin"
