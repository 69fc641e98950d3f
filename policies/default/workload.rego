# What the registry says about the caller beside its actions: state, expiry, environments, schedule, limits, and how its
# credential must be. A key that is absent limits nothing; one that is there has to be shown to hold.
package envoy.authz

import data.guard

# Nothing of this concerns who calls what is open to everybody, or is not registered at all.
is_held if {
	guard.registered
	not guard.action_is_public
}

denials["state"] := "the caller is not active" if {
	is_held
	not is_active
}

denials["expired"] := "the caller's registration has expired" if {
	is_held
	input.workload.expires_at
	not guard.is_before(input.workload.expires_at)
}

denials["environment"] := "the caller is not registered for this environment" if {
	is_held
	not guard.in_its_environment
}

denials["schedule"] := "the caller is outside of its schedule" if {
	is_held
	not guard.on_schedule
}

denials["limit"] := sprintf("the caller may not call %s more often today", [input.action.name]) if {
	is_held
	not guard.within_limit(input.action.name)
}

denials["credential_age"] := "the caller's certificate is older than its registration says" if {
	is_held
	input.workload.max_credential_age_s
	not credential_is_young
}

denials["credential_lifetime"] := "the caller's certificate lives longer than its registration says" if {
	is_held
	input.workload.max_credential_lifetime_s
	not guard.credential_lives_at_most(input.workload.max_credential_lifetime_s)
}

# A third party must have somebody to answer for it, and an end.
denials["third_party"] := "a third party needs `owner` and `expires_at`" if {
	is_held
	input.workload.third_party
	not is_vouched_for
}

# On their own, because OPA takes an operand that is undefined for no answer where it stands under `not`.
is_active if input.workload.state == "active"

credential_is_young if input.peer.x509.age_s <= input.workload.max_credential_age_s

is_vouched_for if {
	input.workload.owner != ""
	input.workload.expires_at
}
