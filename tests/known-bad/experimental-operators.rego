# expect: experimental
package authz

import future.keywords.not

allow if not input.blocked
