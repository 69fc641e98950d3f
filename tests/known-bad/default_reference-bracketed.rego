# expect: default_reference
package authz

default limits["x"] := 1

allow if limits.x
