# expect: undefined_decision
package authz

allow if input.user == "admin"
