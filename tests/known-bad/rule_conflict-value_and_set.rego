# expect: rule_conflict
package authz

roles := input.roles

roles contains "admin" if input.user == "root"

allow if roles
