# expect: reserved_name
package authz

allow if f(1)

f(input) if input == 1
