# expect: function_mock
package authz

allow if count(input.roles) == 1 with count as 1
