# Who may use doorward's own API: tests.
package guard.control_test

import data.guard.control

may(caller, method) if control.allow with input as {"caller": caller, "method": method, "request": {}}

operator := {"kind": "unix", "uid": 1000, "gid": 1000}

test_whoever_is_at_the_socket_may_look_end_sessions_and_revoke if {
	every method in [
		"ExplainService/Explain", "SessionService/List", "SessionService/Show", "SessionService/End",
		"TailService/Follow", "RevocationService/List", "RevocationService/Revoke",
	] {
		may(operator, sprintf("doorward.v1.%s", [method]))
	}
}

test_a_user_id_never_approves_or_restores if {
	every method in ["GrantService/Approve", "GrantService/Request", "RevocationService/Restore", "RevocationService/ApproveRestore", "SessionService/Begin", ""] {
		not may(operator, sprintf("doorward.v1.%s", [method]))
		not may(object.union(operator, {"uid": 0}), sprintf("doorward.v1.%s", [method]))
	}
}

test_other_callers_need_a_policy_of_their_own if {
	every caller in [
		{"kind": "mtls", "spiffe_id": "spiffe://example.org/ops"}, {"kind": "oidc", "person": "kim", "groups": ["ops"]},
		{"kind": "none"}, {"uid": 0}, {},
	] {
		not may(caller, "doorward.v1.SessionService/List")
	}
	not control.allow with input as {}
}
