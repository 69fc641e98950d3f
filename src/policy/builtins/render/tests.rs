//! Templates as OPA 1.22.2 renders them.

use super::*;

const VARIABLES: &str =
    r#"{"a": "x<y", "n": 2, "z": null, "l": [1, null, "a", [true]], "m": {"r": 1, "b": "c"}, "é": 1, "f": 1.0}"#;

/// What a template gives, nothing where the call is undefined, or the limit that it comes to.
fn rendered(template: &str) -> Result<Option<String>, String> {
    crate::policy::builtins::context::begin(0);
    let variables = Value::from_json_str(VARIABLES).unwrap();
    let answer = render_template(&[Value::from(template), variables]);
    let answer = answer.ok().map(|text| text.as_string().unwrap().to_string());
    crate::policy::builtins::context::take_limit().map_or(Ok(answer), Err)
}

#[test]
fn templates_are_rendered_as_by_opa() {
    for (template, expected) in [
        (
            "{{.a}}|{{.n}}|{{.z}}|{{.l}}|{{.m}}|{{.m.q}}|{{.m.q.r}}",
            "x<y|2|<undefined>|[1 <nil> a [true]]|map[b:c r:1]|<undefined>|<undefined>",
        ),
        ("{{.m.q.r.s}}", "<undefined>"),
        ("{{if .nope}}1{{else}}0{{end}}", "0"),
        ("{{if eq .nope 1}}1{{end}}", ""),
        ("{{if eq .n \"2\"}}1{{end}}", "1"),
        ("{{printf \"%d %s\" .n .n}}", "%!d(json.Number=2) 2"),
        ("{{range 3}}{{.}}{{end}}", "012"),
        ("{{range $c := .m}}{{$c}}{{else}}none{{end}}", "c1"),
        ("{{index .m \"q\"}}|{{index .m \"r\"}}|{{index .l 1}}", "<undefined>|1|<undefined>"),
        ("{{print .l 1 2 \"a\" true nil}}", "[1 <nil> a [true]] 1 2atrue <nil>"),
        ("{{.nope | printf \"%v\"}}", "<nil>"),
        ("{{\"<no value>\"}}", "<undefined>"),
        ("{{with $x := .m}}{{$x.r}}{{end}}", "1"),
        ("{{and .nope 1}}", "<undefined>"),
        ("{{not .nope}}", "true"),
        ("{{range .nope}}a{{else}}b{{end}}", "b"),
        ("{{eq .z .z}}{{eq .l .z}}{{ne .l .z}}", "truefalsetrue"),
        ("{{lt .n \"30\"}}", "true"),
        ("{{html \"<a>\"}}|{{html .nope}}", "&lt;a&gt;|&lt;no value&gt;"),
        ("{{.a | }}{{.a|}}", "x<yx<y"),
        ("{{-3}}|{{- 3 -}} x", "-3|3x"),
        ("{{'a'}}", "97"),
        ("{{1e3}}|{{0x10}}|{{010}}|{{0b11}}|{{1.}}|{{.5}}", "1000|16|8|3|1|0.5"),
        ("{{1.0}}|{{1000000.0}}|{{1e21}}", "1|1e+06|1e+21"),
        ("{{$x := 1}}{{$x = 2}}{{$x}}", "2"),
        ("{{$x:=1}}{{range .l}}{{$x = 5}}{{end}}{{$x}}", "5"),
        ("{{$.a}}|{{(.m).r}}|{{(index .l 2)}}|{{.é}}", "x<y|1|a|1"),
        ("{{print}}|{{println 1 \"a\"}}", "|1 a\n"),
        ("{{range $i, $e := .m}}{{$i}}={{$e}},{{end}}", "b=c,r=1,"),
        ("{{range $i, $e := .l}}{{if $i}},{{end}}{{$e}}{{end}}", "1,<undefined>,a,[true]"),
        ("{{range .l}}{{if .}}{{.}}{{else}}{{break}}{{end}}{{end}}", "1"),
        ("{{range 3}}{{if eq . 1}}{{continue}}{{end}}{{.}}{{end}}", "02"),
        ("{{with .nope}}a{{else with .n}}b{{.}}{{else}}c{{end}}", "b2"),
        ("{{if .nope}}a{{else if .z}}b{{else if .n}}c{{else}}d{{end}}", "c"),
        ("{{/* c */}}x{{- /* d */ -}}  y", "xy"),
        ("{{\"\\u00e9\\x41\\n\\101\"}}", "éA\nA"),
        ("{{eq 1 2 1}}", "true"),
        ("{{len .a}}{{len .n}}{{len .l}}{{len .m}}", "3142"),
        ("a}}b", "a}}b"),
        ("{{if eq .a \"x\" | not}}n{{end}}", "n"),
        ("{{print 1 2}}{{print 1.5 \"a\" 2 3}}", "1 21.5a2 3"),
        ("{{eq .nope nil}}|{{eq nil nil}}", "true|true"),
        ("{{and 1 0 .x.y.z}}|{{or .z \"d\"}}", "0|d"),
        ("{{range -1}}a{{else}}b{{end}}", "b"),
        ("{{if (and (eq .a \"x<y\") (gt (len .l) 3))}}yes{{end}}", "yes"),
        ("{{printf \"%5s|%-5s|%q|%05d|%t\" .a .a .a 42 true}}", "  x<y|x<y  |\"x<y\"|00042|true"),
        ("{{printf \"%d %s\" \"a\" 5}}", "%!d(string=a) %!s(int=5)"),
        ("{{\"{{\"}}{{`raw\ns`}}{{.a\n}}", "{{raw\nsx<y"),
        ("{{.a|html|len}}", "6"),
        ("{{if 0.0}}a{{end}}{{if \"0\"}}b{{end}}{{if .z}}c{{end}}{{with 0}}d{{end}}", "b"),
        ("{{.m.r | printf \"%s-%s\" \"a\"}}", "a-1"),
        ("{{$ := 1}}{{$}}{{+3}}", "13"),
    ] {
        assert_eq!(rendered(template), Ok(Some(expected.to_owned())), "{template}");
    }
}

#[test]
fn what_fails_in_opa_is_undefined() {
    for template in [
        "{{.a.b}}",
        "{{.z.b}}",
        "{{range .l}}{{.b}}{{end}}",
        "{{if eq .n 2}}1{{end}}",
        "{{range .n}}x{{end}}",
        "{{range .a}}x{{end}}",
        "{{range 1.5}}{{end}}",
        "{{range $i, $j := 2}}{{$i}}{{end}}",
        "{{len .nope}}",
        "{{len 3}}",
        "{{.n.Int64}}",
        "{{index .l 9}}",
        "{{index .m .n}}",
        "{{index .l .n}}",
        "{{nil}}",
        "{{nil | print}}",
        "{{eq .l .l}}",
        "{{eq 1}}",
        "{{eq 1.0 1}}",
        "{{lt true false}}",
        "{{and}}",
        "{{not}}",
        "{{  }}",
        "{{089}}",
        "{{$x}}",
        "{{if $x := .n}}{{$x}}{{end}}{{$x}}",
        "{{.a.}}",
        "{{true.x}}",
        "{{\"a\" \"b\"}}",
        "{{.a \"b\"}}",
        "{{\"a\" | .a}}",
        "{{\"a\" | 1}}",
        "{{break}}",
        "{{range .l}}{{continue}}{{end}}{{ continue }}",
        "{{ /* c */ }}",
        "{{.a}",
        "{{end}}",
        "{{if .a}}",
        "{{.a,}}",
        "{{call .a}}",
        "{{printf .n 1}}",
        "{{range $i, $_ := .l}}{{end}}{{$i}}",
        "{{éa}}",
        "{{.a=1}}",
        "{{if .a}}1{{else}}2{{else}}3{{end}}",
        "{{-/* x */-}}",
        "{{ - 3}}",
        "{{.a- }}",
        "{{(1)}}{{(.a)(.b)}}",
    ] {
        assert_eq!(rendered(template), Ok(None), "{template}");
    }
    let mut variables = Value::new_object();
    variables.as_object_mut().unwrap().insert(Value::from("s"), Value::new_set());
    assert!(render_template(&[Value::from("x"), variables]).is_err());
}

#[test]
fn what_of_go_is_not_carried_out_ends_the_evaluation() {
    for template in [
        "{{define \"x\"}}{{end}}",
        "{{template \"x\"}}",
        "{{block \"x\" .}}{{end}}",
        "{{slice .a 1}}",
        "{{js .a}}",
        "{{urlquery .a}}",
        "{{1i}}",
        "{{1_000}}",
        "{{\"\\xff\"}}",
        "{{index .a 0}}",
        "{{printf \"%5v\" .l}}",
        "{{9223372036854775808}}",
    ] {
        assert!(rendered(template).is_err(), "{template}");
    }
    assert!(rendered(&"{{if .a}}".repeat(1_000)).is_err());
    assert!(rendered(&format!("{{{{{}}}}}", "(".repeat(1_000))).is_err());
}
