# expect: io_builtin
package authz

allow if http.send({"method": "GET", "url": "http://127.0.0.1/allow"}).body.ok
