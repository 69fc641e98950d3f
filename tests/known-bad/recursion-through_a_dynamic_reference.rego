# expect: recursion
package authz

allow if data.authz[input.rule]
