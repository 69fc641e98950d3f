# Who may use doorward's own API. Built into doorward; a bundle that has a package `guard.control` replaces all of it.
#
# Asked before every call: `input.method` is `package.Service/Method`, `input.request` its message, and `input.caller` who
# calls: `{kind: "unix", uid, gid}` at the Unix socket, `{kind: "mtls", spiffe_id}`, or `{kind: "oidc", person, groups}`.
package guard.control

default allow := false

# Whoever is let in at the Unix socket may look, and may take away: neither lets anybody do more. What does, such as
# approving or restoring, needs a person, and so a bundle that says which.
allow if {
	input.caller.kind == "unix"
	input.method in (looking | taking)
}

looking := {
	"doorward.v1.ExplainService/Explain",
	"doorward.v1.RevocationService/List",
	"doorward.v1.SessionService/List",
	"doorward.v1.SessionService/Show",
	"doorward.v1.TailService/Follow",
}

taking := {
	"doorward.v1.RevocationService/Revoke",
	"doorward.v1.SessionService/End",
}
