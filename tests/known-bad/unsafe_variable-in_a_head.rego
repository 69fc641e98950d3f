# expect: unsafe_variable
package authz

roles contains role if input.user

allow if roles
