# expect: io_builtin
package authz

allow if net.lookup_ip_addr(input.host)[_] == "10.0.0.1"
