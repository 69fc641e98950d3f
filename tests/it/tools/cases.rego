# The forms that a test with cases can have. Behind each stands what `opa test` says of it: whether it passes, or which
# cases fail.
package cases

ones := {"one": 1, "two": 1}

mixed := {"one": 1, "two": 2}

named := [{"name": "a", "v": 1}, {"name": "b", "v": 2}]

test_a[n] if { some n, v in mixed; v == 1 } # fails: two

test_a_good[n] if { some n, v in ones; v == 1 } # passes

test_number[i] if { some i, c in named; c.v == 1 } # fails: 1

test_a_b[a][b] if { some a, v in ones; some b, w in mixed; v == 1; w == 1 } # fails: one / two, two / two

test_a_b_good[a][b] if { some a, v in ones; some b, w in ones; v == w } # passes

test_a_b_halfway[a][b] if { some a, v in mixed; v == 1; some b in ["x"] } # passes

test_a_b_c[a][b][c] if { some a, _ in ones; some b in ["x"]; some c, v in mixed; v == 1 } # fails: one / x / two, two / x / two

test_field[c.name] if { some c in named; c.v == 1 } # fails: b

test_field_good[c.name] if { some c in named; c.v > 0 } # passes

test_field_twice[i][c.name] if { some i, c in named; c.v == 1 } # fails: 1 / b

test_call[sprintf("%s-%d", [n, v])] if { some n, v in mixed; v == 1 } # fails: two-2

test_comparison[c.v == 1] if { some c in named; c.v == 1 } # fails: false

test_array[[a, b]] if { some a, v in {"x": 1}; some b, w in mixed; v == w } # fails: ["x","two"]

test_constant["a"][n] if { some n, v in mixed; v == 1 } # fails: a / two

test_dot.foo[n] if { some n, v in mixed; v == 1 } # fails: foo / two

test_case_dot[n].foo if { some n, v in mixed; v == 1 } # fails: two / foo

test_case_dot_good[n].foo if { some n, v in ones; v == 1 } # passes

foo.test_below[n] if { some n, v in mixed; v == 1 } # fails: two

test_rule[ones.one] if false # fails: 1

test_index[named[i].name] if { some i; named[i].v == 1 } # passes

test_declared[n] if { some n; mixed[n] == 1 } # passes

test_assigned[n] if { some a, v in mixed; n := concat("-", [a, "x"]); v == 1 } # fails: two-x

test_assigned_late[n] if { some a, v in mixed; v == 1; n := concat("-", [a, "x"]) } # passes

test_unified[n] if { [n, v] = [["x", 1], ["y", 2]][_]; v == 1 } # fails: y

test_none[n] if { some n, v in mixed; v == 7 } # fails: one, two

test_no_case[n] if { some n, v in {}; v == 7 } # passes

test_none_nested[a][b] if { some a, v in ones; some b in ["x"]; v == 7 } # fails: one / x, two / x

test_input[n] if { some n, v in mixed; v == input.x with input as {"x": 1} } # fails: two

test_negation[n] if { some n, v in mixed; not v == 2 } # fails: two

test_every[n] if { some n, v in mixed; every x in [v] { x == 1 } } # fails: two

test_value_false[n] := v if { some n, v in {"x": true, "y": false} } # fails: y

test_value_kind[n] := v if { some n, v in {"x": true, "y": 3, "z": [true]} } # fails: y, z

test_value_undefined[n] := {1: true}[v] if { some n, v in mixed } # fails: two

test_value_object[n] := {"a": v} if { some n, v in {"x": true, "y": false} } # fails: y / a

test_value_deep[n] := v if { some n, v in {"x": {"a": {"b": true}}, "y": {"a": {"b": true, "c": 1}}} } # fails: y / a / c

test_value_empty[n] := {} if { some n in ["x"] } # passes

test_value_object_missing[n] := {"a": true} if { some n, v in mixed; v == 1 } # fails: two

test_contains contains n if { some n, _ in ones } # fails

test_contains_within[n] contains v if { some n, v in ones } # fails

test_all_constant["a"] if true # fails

test_all_constant_number[1] if true # fails

test_all_dot.foo if true # fails

test_again[n] if { some n, v in ones; v == 1 } # passes

test_again[n] if { some n, v in {"three": 3}; v == 1 } # fails: three
