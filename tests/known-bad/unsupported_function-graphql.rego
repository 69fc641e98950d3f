# expect: unsupported_function
package authz

allow if graphql.is_valid(input.parsed_body.query, "type Query { a: Int }")
