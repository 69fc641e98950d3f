# expect: assignment_target
package authz

allow if input.user := "admin"
