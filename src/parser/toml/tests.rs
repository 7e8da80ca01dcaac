use super::*;

/// JSON-like text of a value, to compare with.
fn show(value: &Value) -> String {
    match value {
        Value::Text(text) => format!("{text:?}"),
        Value::Integer(number) => number.to_string(),
        Value::Bool(value) => value.to_string(),
        Value::Array(array) => {
            let items = array.items.iter().map(|item| show(&item.value));
            format!("[{}]", items.collect::<Vec<_>>().join(","))
        }
        Value::Table(table) => show_table(table),
    }
}

fn show_table(table: &Table) -> String {
    let items = table
        .iter()
        .map(|(name, item)| format!("{name}:{}", show(&item.value)));
    format!("{{{}}}", items.collect::<Vec<_>>().join(","))
}

const GOOD: &[(&str, &str)] = &[
    ("", "{}"),
    ("\u{feff}a=1", "{a:1}"),
    ("# é\ta comment\r\n\r\n a = 1 # another\r\nb=2", "{a:1,b:2}"),
    ("a=+0\nb=-0\nc=-17\nd=1_000", "{a:0,b:0,c:-17,d:1000}"),
    (
        "a=0xDead_beef\nb=0o7_55\nc=0b1_01\nd=0x00",
        "{a:3735928559,b:493,c:5,d:0}",
    ),
    (
        "a=9223372036854775807\nb=-9223372036854775808",
        "{a:9223372036854775807,b:-9223372036854775808}",
    ),
    ("a=true\nb=false", "{a:true,b:false}"),
    (
        r#"a="x\b\t\n\f\r\"\\\u00e9\U0001F600""#,
        "{a:\"x\\u{8}\\t\\n\\u{c}\\r\\\"\\\\é😀\"}",
    ),
    (r#"a='\n"x'"#, "{a:\"\\\\n\\\"x\"}"),
    (
        "a=\"\"\nb=''\nc=\"\"\"\"\"\"\nd=''''''",
        "{a:\"\",b:\"\",c:\"\",d:\"\"}",
    ),
    ("a=\"\"\"\nx\r\ny \\  \n\n  z\"\"\"", "{a:\"x\\ny z\"}"),
    ("a=\"\"\"\"\"x\"\"\"\"\"", "{a:\"\\\"\\\"x\\\"\\\"\"}"),
    ("a=\"\"\"x\"\"y\\\"\"\"\"", "{a:\"x\\\"\\\"y\\\"\"}"),
    ("a='''\n\\x\n''y'''''", "{a:\"\\\\x\\n''y''\"}"),
    ("a=\"\"\"x\\\r\n  \r\n y\"\"\"", "{a:\"xy\"}"),
    ("a . b . \"c d\" . '' = 1\na.e=2", "{a:{b:{c d:{:1}},e:2}}"),
    ("1=1\n-=2\n_=3\n3.14=4", "{-:2,1:1,3:{14:4},_:3}"),
    (
        "a=[]\nb=[1,\"x\",[true],{c=1}]",
        "{a:[],b:[1,\"x\",[true],{c:1}]}",
    ),
    ("a=[ # one\n 1, # two\n\n 2\n , # three\n]", "{a:[1,2]}"),
    (
        "a={}\nb={ c = {d.e=1, d.f=2} , g=[\n1] }",
        "{a:{},b:{c:{d:{e:1,f:2}},g:[1]}}",
    ),
    (
        "[a]\nx=1\n[a.b]\ny=2\n[ c . \"d\" ]",
        "{a:{b:{y:2},x:1},c:{d:{}}}",
    ),
    ("[x.y.z]\n[x]\na=1", "{x:{a:1,y:{z:{}}}}"),
    ("[a.b.c]\n[a]\nb.d=1", "{a:{b:{c:{},d:1}}}"),
    (
        "[[a]]\nx=1\n[[a.b]]\n[[a.b]]\n[[a]]\n[a.c]\ny=1",
        "{a:[{b:[{},{}],x:1},{c:{y:1}}]}",
    ),
    (
        "[fruit]\napple.color=1\napple.taste.sweet=true\n[fruit.apple.texture]\nsmooth=true",
        "{fruit:{apple:{color:1,taste:{sweet:true},texture:{smooth:true}}}}",
    ),
    ("a=1\n[b]", "{a:1,b:{}}"),
    ("[a]# x", "{a:{}}"),
];

#[test]
fn good_texts() {
    for (text, value) in GOOD {
        let table = parse(text).unwrap_or_else(|error| panic!("{text:?}: {error:?}"));
        assert_eq!(show_table(&table), *value, "{text:?}");
    }
}

/// A text and where its error stands.
const BAD: &[(&str, usize, usize)] = &[
    ("a", 1, 2),
    ("a=", 1, 3),
    ("a= # x", 1, 4),
    ("=1", 1, 1),
    ("a b=1", 1, 3),
    ("a..b=1", 1, 3),
    (".a=1", 1, 1),
    ("a.=1", 1, 3),
    ("a=1 b=2", 1, 5),
    ("a=1\na=2", 2, 1),
    ("a=1\n'a'=2", 2, 1),
    ("a=1\na.b=2", 2, 1),
    ("a.b=1\na=2", 2, 1),
    ("é=1", 1, 1),
    ("a=é", 1, 3),
    ("a=x", 1, 3),
    ("a=True", 1, 3),
    ("a\n=1", 1, 2),
    ("a=\n1", 1, 3),
    ("\"\"\"a\"\"\"=1", 1, 3),
    // Numbers.
    ("a=01", 1, 3),
    ("a=-01", 1, 3),
    ("a=1__0", 1, 3),
    ("a=_1", 1, 3),
    ("a=1_", 1, 3),
    ("a=0x", 1, 3),
    ("a=+0x1", 1, 3),
    ("a=0X1", 1, 3),
    ("a=0x_1", 1, 3),
    ("a=0b2", 1, 3),
    ("a=0o8", 1, 3),
    ("a=++1", 1, 3),
    ("a=+", 1, 3),
    ("a=9223372036854775808", 1, 3),
    ("a=0xffffffffffffffff", 1, 3),
    ("a=1a", 1, 3),
    ("a=1.5", 1, 3),
    ("a=.5", 1, 3),
    ("a=1e3", 1, 3),
    ("a=inf", 1, 3),
    ("a=-nan", 1, 3),
    ("a=1979-05-27", 1, 3),
    ("a=1979-05-27T07:32:00Z", 1, 3),
    ("a=1979-05-27 07:32:00", 1, 3),
    ("a=07:32:00", 1, 3),
    // Strings.
    ("a=\"x", 1, 5),
    ("a=\"x\n\"", 1, 5),
    ("a='x", 1, 5),
    ("a=\"\"\"x\"\"", 1, 6),
    ("a='''x''", 1, 6),
    ("a=\"\"\"\"\"\"\"\"\"", 1, 11),
    ("a=\"\\x41\"", 1, 4),
    ("a=\"\\e\"", 1, 4),
    ("a=\"\\u12\"", 1, 4),
    ("a=\"\\u+123\"", 1, 4),
    ("a=\"\\ud800\"", 1, 4),
    ("a=\"\\U00110000\"", 1, 4),
    ("a=\"\"\"x\\ y\"\"\"", 1, 7),
    ("a=\"\u{1}\"", 1, 4),
    ("a='\u{7f}'", 1, 4),
    ("a=\"\"\"\r\"\"\"", 1, 6),
    ("a='''\0'''", 1, 6),
    ("a='x' 'y'", 1, 7),
    ("# \u{1}", 1, 3),
    ("# x\r", 1, 4),
    ("a=1\rb=2", 1, 4),
    ("\ra=1", 1, 1),
    // Arrays and inline tables.
    ("a=[1 2]", 1, 6),
    ("a=[,]", 1, 4),
    ("a=[1,,2]", 1, 6),
    ("a=[1", 1, 5),
    ("a=[", 1, 4),
    ("a={b=1,}", 1, 8),
    ("a={b=1\n}", 1, 7),
    ("a={\n}", 1, 4),
    ("a={b=1 c=2}", 1, 8),
    ("a={b=1,b=2}", 1, 8),
    ("a={b={c=1},b.d=2}", 1, 12),
    ("a={b.c=1,b=2}", 1, 10),
    ("a={b}", 1, 5),
    ("a={", 1, 4),
    ("a={}\na.b=1", 2, 1),
    ("a={}\n[a.b]", 2, 2),
    ("a={}\n[a]", 2, 2),
    ("a=[{}]\n[a.b]", 2, 2),
    ("a=[]\n[[a]]", 2, 3),
    // Headers.
    ("[]", 1, 2),
    ("[a", 1, 3),
    ("[a]]", 1, 4),
    ("[[a]", 1, 4),
    ("[a] b=1", 1, 5),
    ("[ [a]]", 1, 3),
    ("[[a] ]", 1, 4),
    ("[a.]", 1, 4),
    ("[a]\n[a]", 2, 2),
    ("a=1\n[a]", 2, 2),
    ("a=1\n[a.b]", 2, 2),
    ("[a]\nb=1\n[a.b]", 3, 4),
    ("[a]\nb.c=1\n[a.b]", 3, 4),
    ("[a.b.c]\n[a]\nb.c.t=1", 3, 3),
    ("[a.b.c.d]\n[a]\nb.c.d.k.t=1", 3, 5),
    ("[a.b.c]\n[a]\nb.d=1\n[a.b]", 4, 4),
    ("[a]\n[[a]]", 2, 3),
    ("[[a]]\n[a]", 2, 2),
    ("[a.b]\n[[a]]", 2, 3),
    ("[[a.b]]\n[a]\nb.c=1", 3, 1),
    ("[[a.b]]\n[a.b]", 2, 4),
    ("a.b=1\n[[a]]", 2, 3),
    ("a=1\u{feff}", 1, 4),
];

#[test]
fn bad_texts() {
    for (text, line, column) in BAD {
        let error = parse(text).expect_err(text);
        assert_eq!(
            (error.line, error.column),
            (*line, *column),
            "{text:?}: {error:?}"
        );
    }
}

#[test]
fn what_is_not_supported_is_said() {
    for (text, what) in [
        ("a=1.5", "floats are not supported here"),
        ("a=nan", "nan is a float, which is not supported here"),
        ("a=07:32:00", "dates and times are not supported here"),
    ] {
        assert_eq!(parse(text).expect_err(text).what, what);
    }
}

#[test]
fn columns_count_characters() {
    let error = parse("\u{feff}'é' = é").expect_err("a bad value");
    assert_eq!((error.line, error.column), (1, 7));
    let table = parse("a=1\n'é' = \t'x'").expect("good");
    let item = table.get("é").expect("there");
    assert_eq!(locate("a=1\n'é' = \t'x'", item.key_at), (2, 1));
    assert_eq!(locate("a=1\n'é' = \t'x'", item.at), (2, 8));
}

#[test]
fn nesting_is_bounded() {
    for open in ["[", "{a=", "[{a.b="] {
        assert!(parse(&format!("x={}", open.repeat(100_000))).is_err());
    }
    assert!(parse(&format!("[{}a]", "a.".repeat(100_000))).is_err());
    let deep = |depth: usize| format!("x={}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(parse(&deep(CONFIG_DEPTH_MAX)).is_ok());
    assert!(parse(&deep(CONFIG_DEPTH_MAX + 1)).is_err());
}

/// A second pass over what was read would make these take minutes.
#[test]
fn large_texts_take_linear_time() {
    let mut headers = String::new();
    let mut inline = String::from("x=[");
    for n in 0..100_000 {
        headers.push_str(&format!("[[a.b]]\nhostname='h{n}'\n[t.k{n}]\n"));
        inline.push_str(&format!("{{hostname='h{n}'}}, "));
    }
    inline.push(']');
    assert!(parse(&headers).is_ok());
    assert!(parse(&inline).is_ok());
    assert!(parse(&"\n".repeat(3_000_000)).is_ok());
    assert!(parse(&format!("a='{}'", "x".repeat(3_000_000))).is_ok());
}
