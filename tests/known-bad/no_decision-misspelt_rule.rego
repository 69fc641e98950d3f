# expect: no_decision
package authz

alow if input.user == "admin"
