# expect: unused_import
package authz

import data.lib

default allow := false

allow if input.user == "admin"
