# expect: multiple_defaults
package authz

default allow := false

default allow := true

allow if input.user == "admin"
