# Who may use doorward's own API: tests.
package guard.control_test

import data.guard.control

may(caller, method) if control.allow with input as {"caller": caller, "method": method, "request": {}}

operator := {"kind": "unix", "uid": 1000, "gid": 1000}

test_whoever_is_at_the_socket_may_look_end_sessions_and_revoke if {
	every method in [
		"ExplainService/Explain", "SessionService/List", "SessionService/Show", "SessionService/End",
		"TailService/Follow", "RevocationService/List", "RevocationService/Revoke", "InventoryService/List",
		"InventoryService/Show", "WorkloadService/Get", "WorkloadService/List", "StatusService/Get",
	] {
		may(operator, sprintf("doorward.v1.%s", [method]))
	}
}

test_a_user_id_never_approves_or_restores if {
	every method in ["GrantService/Approve", "GrantService/Request", "RevocationService/Restore", "RevocationService/ApproveRestore", "SessionService/Begin", "InventoryService/Forget", "WorkloadService/Set", "StatusService/Set", ""] {
		not may(operator, sprintf("doorward.v1.%s", [method]))
		not may(object.union(operator, {"uid": 0}), sprintf("doorward.v1.%s", [method]))
	}
}

person := {"kind": "oidc", "person": "kim", "groups": ["ops"], "approver": false}

test_people_look_take_and_ask_and_approvers_approve if {
	every method in ["SessionService/List", "RevocationService/Revoke", "GrantService/Request", "GrantService/Deny"] {
		may(person, sprintf("doorward.v1.%s", [method]))
	}
	every method in ["GrantService/Approve", "RevocationService/Restore", "RevocationService/ApproveRestore"] {
		not may(person, sprintf("doorward.v1.%s", [method]))
		may(object.union(person, {"approver": true}), sprintf("doorward.v1.%s", [method]))
		not may({"kind": "unix", "uid": 0, "approver": true}, sprintf("doorward.v1.%s", [method]))
	}
}

test_a_workload_has_to_do_with_its_own_grants if {
	workload := {"kind": "mtls", "spiffe_id": "spiffe://example.org/agent"}
	every method in ["Request", "List", "End"] {
		may(workload, sprintf("doorward.v1.GrantService/%s", [method]))
	}
	every method in ["GrantService/Approve", "GrantService/Deny", "SessionService/List", "RevocationService/Revoke"] {
		not may(workload, sprintf("doorward.v1.%s", [method]))
	}
}

test_nobody_else_may_anything if {
	every caller in [{"kind": "none"}, {"uid": 0}, {"person": "kim", "approver": true}, {}] {
		not may(caller, "doorward.v1.SessionService/List")
		not may(caller, "doorward.v1.GrantService/Approve")
	}
	not control.allow with input as {}
}
