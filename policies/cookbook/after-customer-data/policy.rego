# Whoever has read customer data sends nothing outside any more.
#
# Data: the catalogue, in which actions give labels (`adds`), and the registry, which says who may do them. The label of
# a call is in its session before the policy is asked, so of two calls at once the second sees the first. The catalogue
# can say the same without Rego, and lets a grant lift it: `forbid_after: [data:customer]` and `grant: after_label`.
package cookbook.after_customer_data

import data.guard

allow := guard.decide(denials, permits)

permits["registry"] := "the registry allows it" if guard.may(input.action.name)

# What is not known to be untouched counts as touched.
denials["egress"] := "after customer data nothing goes outside without a grant" if {
	guard.adds_after("egress:external", "data:customer")
}
