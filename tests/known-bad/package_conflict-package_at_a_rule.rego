# expect: package_conflict
package authz

tokens := input.tokens

allow if tokens
---
package authz.tokens

valid if input.x
