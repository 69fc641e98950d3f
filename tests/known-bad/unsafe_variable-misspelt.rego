# expect: unsafe_variable
package authz

allow if user == "admin"
