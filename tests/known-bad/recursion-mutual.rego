# expect: recursion
package authz

allow if a

a if b

b if a
