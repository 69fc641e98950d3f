# expect: unsupported_function
package authz

allow if rego.parse_module("sent.rego", input.parsed_body.policy)["package"]
