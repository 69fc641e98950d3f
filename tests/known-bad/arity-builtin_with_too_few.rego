# expect: arity
package authz

allow if startswith(input.path) == true
