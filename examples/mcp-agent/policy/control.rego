# Who may ask doorward itself: whoever reaches its socket, and that is its own user.
package guard.control

default allow := false

allow if input.caller.kind == "unix"
