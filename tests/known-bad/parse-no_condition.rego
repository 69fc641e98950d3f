# expect: parse
package authz

allow { input.user == "admin" }
