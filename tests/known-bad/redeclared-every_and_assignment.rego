# expect: redeclared
package authz

allow if every x in input.xs { x := 1 }
