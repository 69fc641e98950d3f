# expect: parse
package authz

allow if $"{}" == "admin"
