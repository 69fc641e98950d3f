# expect: unknown_function
package authz

allow if start_with(input.path, "/public")
