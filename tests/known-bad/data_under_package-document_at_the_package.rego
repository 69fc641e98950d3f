# expect: data_under_package
package authz

allow if data.authz.users[input.user]
--- data
{"authz": {"users": {"root": true}}}
