# Who may use doorward's own API. Built into doorward; a bundle that has a package `guard.control` replaces all of it.
#
# Asked before every call: `input.method` is `package.Service/Method`, `input.request` its message, and `input.caller` who
# calls: `{kind: "unix", uid, gid}` at the Unix socket, `{kind: "mtls", spiffe_id}` with an SVID, or for whoever shows a
# token of `control.oidc` `{kind: "oidc", person, groups, approver}`. Who asked, who owns and who may approve is held apart
# by doorward itself, whatever is said here.
package guard.control

default allow := false

# Whoever is let in at the Unix socket may look, and may take away: neither lets anybody do more.
allow if {
	input.caller.kind == "unix"
	input.method in (looking | taking)
}

# People may ask, too.
allow if {
	input.caller.kind == "oidc"
	input.method in ((looking | taking) | {"doorward.v1.GrantService/Request"})
}

# What lets somebody do more takes those of `control.oidc.approvers`.
allow if {
	input.caller.kind == "oidc"
	input.caller.approver == true
	input.method in giving
}

# A workload has to do with its own grants.
allow if {
	input.caller.kind == "mtls"
	input.method in own
}

looking := {
	"doorward.v1.ExplainService/Explain",
	"doorward.v1.GrantService/List",
	"doorward.v1.GrantService/Watch",
	"doorward.v1.InventoryService/List",
	"doorward.v1.InventoryService/Show",
	"doorward.v1.RevocationService/List",
	"doorward.v1.SessionService/List",
	"doorward.v1.SessionService/Show",
	"doorward.v1.StatusService/Get",
	"doorward.v1.TailService/Follow",
	"doorward.v1.WorkloadService/Get",
	"doorward.v1.WorkloadService/List",
}

taking := {
	"doorward.v1.GrantService/Deny",
	"doorward.v1.GrantService/End",
	"doorward.v1.RevocationService/Revoke",
	"doorward.v1.SessionService/End",
	"doorward.v1.TaskService/End",
}

giving := {
	"doorward.v1.GrantService/Approve",
	"doorward.v1.RevocationService/ApproveRestore",
	"doorward.v1.RevocationService/Restore",
}

own := {
	"doorward.v1.GrantService/End",
	"doorward.v1.GrantService/List",
	"doorward.v1.GrantService/Request",
	"doorward.v1.GrantService/Watch",
	"doorward.v1.TaskService/End",
}
