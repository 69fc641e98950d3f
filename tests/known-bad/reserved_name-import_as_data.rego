# expect: reserved_name
package authz

import data.lib as data

allow if data.x
