# expect: import_conflict
package authz

import data.a.users
import data.b.users

allow if users[input.user]
