# What the registry says about the caller's entry beside its actions: state, expiry, environments, schedule, and how its
# credential must be. A key that is absent limits nothing; one that is there has to be proved.
package envoy.authz

import data.guard

known_keys := {
	"allows", "owner", "team", "purpose", "third_party", "escalation",
	"state", "expires_at", "environments", "schedule", "max_credential_lifetime_s",
}

denials["registry_key"] := sprintf("the registry has keys that are not known here: %s", [concat(", ", unknown)]) if {
	unknown := object.keys(workload) - known_keys
	count(unknown) > 0
}

denials["state"] := "the caller is not active" if {
	said("state")
	not workload.state == "active"
}

denials["expired"] := "the caller's registration has expired" if {
	said("expires_at")
	not in_force
}

denials["environment"] := "the caller is not registered for this environment" if {
	said("environments")
	not in_environment
}

denials["schedule"] := "the caller is outside of its schedule" if {
	said("schedule")
	not on_schedule
}

denials["credential_lifetime"] := "the caller's certificate lives longer than its registration says" if {
	said("max_credential_lifetime_s")
	not credential_is_short
}

# A third party must have somebody to answer for it, and an end.
denials["third_party"] := "a third party needs `owner` and `expires_at`" if {
	workload.third_party
	not is_vouched_for
}

denials["tier"] := "the action wants a caller whose certificate doorward has checked itself" if {
	some name in actions
	data.doorward.actions[name].tier == "strict"
	not guard.peer_proved_here
}

said(key) if key in object.keys(workload)

in_force if guard.is_before(workload.expires_at)

in_environment if input.self.environment in workload.environments

on_schedule if guard.in_window(workload.schedule)

credential_is_short if guard.credential_lives_at_most(workload.max_credential_lifetime_s)

is_vouched_for if {
	workload.owner != ""
	said("expires_at")
}
