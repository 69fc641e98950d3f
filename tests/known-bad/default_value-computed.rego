# expect: default_value
package authz

default allow := input.fallback

allow if input.user == "admin"
