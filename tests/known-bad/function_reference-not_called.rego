# expect: function_reference
package authz

allow if is_admin

is_admin(user) if user == "root"
