# expect: unknown_function
package authz

allow if data.lib.is_admin(input.user)
