# expect: data_under_package
# To the engine the data hide the rule.
package authz

allow if blocked == false

blocked if input.user == "mallory"
--- data
{"authz": {"blocked": false}}
