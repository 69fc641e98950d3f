# expect: unsupported_function
package authz

# METADATA
# custom: {roles: [admin]}
allow if input.role in rego.metadata.rule().custom.roles
