# What the default policy cannot know: from which branch a job runs. One more reason to refuse, beside its own; whether the
# runner may deploy at all, the registry says.
package envoy.authz

denials["branch"] := "only a job of the protected branch may deploy to production" if {
	input.action.name == "deploy.start"
	not from_protected_branch
}

# The claims of a verified token. Each has to be there: what is not known denies.
from_protected_branch if {
	claims := input.token.claims
	claims.repository_id == "4711"
	claims.ref == "refs/heads/main"
	claims.ref_protected == "true"
	claims.environment == "production"
}
