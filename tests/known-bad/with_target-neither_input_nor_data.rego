# expect: with_target
package authz

allow if input.x with role as "admin"
