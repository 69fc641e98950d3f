# expect: rule_conflict
package authz

user := "root"

user.name := "admin"

allow if user
