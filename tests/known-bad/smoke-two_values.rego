# expect: smoke
package authz

allow := 1

allow := 2
