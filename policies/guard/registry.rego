# What the registry says of the caller.
#
# Questions about `input.workload`, the caller's entry in `data.doorward.workloads`, which doorward has found. Each holds
# only where it is shown to: without a proved peer, or without an entry, all of them are undefined.
package guard

registered if input.workload.registered == true

# The entry is `active` and its time is not over.
registration_holds if {
	input.workload.state == "active"
	not input.workload.expires_at
}

registration_holds if {
	input.workload.state == "active"
	is_before(input.workload.expires_at)
}

# The entry allows an action of this name, and the call is within what else it says: class, resource, tenant and
# environment. A name that is a glob (`orders.*`) stops at dots, `**` does not.
may(action) if {
	some allow in input.workload.allows
	some name in allow.actions
	glob.match(name, ["."], action)
	class_fits(allow)
	resource_fits(allow)
	tenant_fits(allow)
	environment_fits(allow)
}

class_fits(allow) if not allow.classes

class_fits(allow) if input.action.class in allow.classes

resource_fits(allow) if not allow.resources

resource_fits(allow) if input.action.resource.type in allow.resources

# `order/*`
resource_fits(allow) if {
	some pattern in allow.resources
	glob.match(pattern, ["/"], concat("/", [input.action.resource.type, input.action.resource.id]))
}

tenant_fits(allow) if not allow.tenants

tenant_fits(allow) if input.action.resource.tenant in allow.tenants

# Of one of the `allows`, or of the entry itself.
environment_fits(allow) if not allow.environments

environment_fits(allow) if input.self.environment in allow.environments

# The caller is registered for the environment that this doorward stands in.
in_its_environment if {
	registered
	environment_fits(input.workload)
}

on_schedule if {
	registered
	not input.workload.schedule
}

on_schedule if in_window(input.workload.schedule)

# The caller has done an action less often within a day than its entry lets it.
within_limit(action) if {
	registered
	not input.workload.limits[action]
}

within_limit(action) if {
	most := input.workload.limits[action].per_day
	is_number(most)
	count_in(action, 24 * 3600) < most
}
