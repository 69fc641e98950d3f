# expect: unsupported
package authz

allow if not walk(input.tree, [["a"], "secret"])
