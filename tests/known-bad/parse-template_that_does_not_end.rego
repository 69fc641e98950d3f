# expect: parse
package authz

allow if $"{input.user" == "admin"
