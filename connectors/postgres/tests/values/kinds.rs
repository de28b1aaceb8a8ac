//! Every type, and how to make a value of it. Values are SQL expressions: blue evaluates them.

use cutover_postgres::sql::literal;

use crate::random::Random;

/// What both servers can do.
#[derive(Debug, Clone)]
pub(crate) struct Able {
    /// The older of the two.
    pub(crate) major: u32,

    /// Both know the `xml` type.
    pub(crate) xml: bool,
    /// Extensions that both have.
    pub(crate) extensions: Vec<&'static str>,
}

impl Able {
    fn has(&self, extension: &str) -> bool {
        self.extensions.contains(&extension)
    }
}

/// Extensions whose types are tried where both servers have them.
pub(crate) const EXTENSIONS: &[&str] =
    &["hstore", "citext", "ltree", "cube", "seg", "isn", "vector", "postgis"];

/// Types of our own, in a schema of an awkward name.
pub(crate) const DEFINED: &str = r#"
CREATE SCHEMA "my.Types";
CREATE TYPE "my.Types".mood AS ENUM ('sad', 'so so', 'Happy', '', 'it''s, "q" \ {x}', '日本');
CREATE TYPE "my.Types"."Pair" AS (a int, "b B" text, c numeric);
CREATE TYPE "my.Types".nest AS (p "my.Types"."Pair", m "my.Types".mood[], t timestamptz,
                                q "my.Types"."Pair"[]);
CREATE DOMAIN "my.Types".positive AS int CHECK (VALUE > 0);
CREATE DOMAIN "my.Types".even AS "my.Types".positive CHECK (VALUE % 2 = 0);
CREATE DOMAIN "my.Types".words AS text[];
CREATE DOMAIN "my.Types".short AS varchar(5);
CREATE DOMAIN "my.Types".cents AS numeric(12,2);
CREATE DOMAIN "my.Types".feeling AS "my.Types".mood;
CREATE DOMAIN "my.Types".pairs AS "my.Types"."Pair" CHECK ((VALUE).a IS DISTINCT FROM -1);
CREATE DOMAIN "my.Types".flags AS bit(4);
CREATE TYPE "my.Types"."floatRange" AS RANGE (subtype = float8);
CREATE TYPE "my.Types".words_between AS RANGE (subtype = text, collation = "C");
CREATE TYPE "my.Types".dropped AS (a int, gone text, z text);
ALTER TYPE "my.Types".dropped DROP ATTRIBUTE gone;
"#;

/// A type.
#[derive(Clone)]
pub(crate) struct Kind {
    /// As in a column definition.
    pub(crate) name: String,
    make: fn(&mut Random, &Able) -> String,
    /// What stands between the elements of an array.
    delimiter: char,
}

impl Kind {
    /// An expression of this type.
    pub(crate) fn value(&self, r: &mut Random, able: &Able) -> String {
        format!("({})::{}", (self.make)(r, able), self.name)
    }

    /// An expression of the array type: none, one or several dimensions, with bounds of their own.
    pub(crate) fn array(&self, r: &mut Random, able: &Able) -> String {
        let dimensions = r.below(4);
        if dimensions == 0 {
            return format!("'{{}}'::{}[]", self.name);
        }
        let sizes: Vec<usize> = (0..dimensions).map(|_| 1 + r.below(2)).collect();
        let bounds: String = if r.one_in(2) {
            let bound = |size: &usize| {
                let low = r.pick(&[-2, 0, 1, 7, 2_000_000]);
                format!("[{low}:{}]", low + *size as i64 - 1)
            };
            sizes.iter().map(bound).collect::<String>() + "="
        } else {
            String::new()
        };
        let mut parts = vec![literal(&bounds)];
        self.elements(&sizes, r, able, &mut parts);
        format!("({})::{}[]", parts.join(" || "), self.name)
    }

    fn elements(&self, sizes: &[usize], r: &mut Random, able: &Able, parts: &mut Vec<String>) {
        parts.push("'{'".into());
        for i in 0..sizes[0] {
            if i > 0 {
                parts.push(format!("'{}'", self.delimiter));
            }
            if sizes.len() > 1 {
                self.elements(&sizes[1..], r, able, parts);
            } else if r.one_in(5) {
                parts.push("'NULL'".into());
            } else {
                parts.push(format!("log.quoted(format('%s', {}))", self.value(r, able)));
            }
        }
        parts.push("'}'".into());
    }
}

/// Every type that both servers have.
pub(crate) fn kinds(able: &Able) -> Vec<Kind> {
    let mut all: Vec<Kind> = Vec::new();
    let mut add = |name: &str, make: fn(&mut Random, &Able) -> String| {
        let delimiter = if name == "box" { ';' } else { ',' };
        all.push(Kind { name: name.to_owned(), make, delimiter });
    };
    add("boolean", |r, _| r.pick(&["true", "false"]).into());
    add("\"char\"", |r, _| literal(r.pick(&["x", "", "\\", "'", " ", "\u{1}", "~", "0", "\n"])));
    add("name", |r, _| literal(&clip(&r.text(10), 60)));
    add("smallint", |r, _| format!("'{}'", r.int(16)));
    add("integer", |r, _| format!("'{}'", r.int(32)));
    add("bigint", |r, _| format!("'{}'", r.int(64)));
    add("numeric", numeric);
    add("numeric(10,2)", |r, _| match r.below(6) {
        0 => "'NaN'".into(),
        _ => format!("'{}.{}'", r.between(-99_999_999, 99_999_999), r.digits(2)),
    });
    if able.major >= 15 {
        add("numeric(3,-2)", |r, _| format!("'{}00'", r.between(-999, 999)));
        add("numeric(3,5)", |r, _| format!("'0.00{}'", r.digits(3)));
    }
    add("real", |r, _| literal(&real(r)));
    add("double precision", |r, _| literal(&double(r)));
    add("money", |r, _| format!("{}::bigint * '$0.01'::money", r.int(62)));
    add("text", |r, _| long(r));
    add("character(5)", |r, _| literal(&clip(&r.text(5), 5)));
    add("bpchar", |r, _| literal(&format!("{}{}", r.text(4), r.pick(&["", " ", "   "]))));
    add("character varying(10)", |r, _| literal(&clip(&r.text(6), 10)));
    add("character varying", |r, _| long(r));
    add("bytea", |r, _| {
        let n = r.pick(&[0, 1, 2, 16, 300, 9000]);
        format!("decode('{}', 'hex')", r.hex(n))
    });
    add("date", |r, _| date(r));
    add("time", |r, _| literal(&time(r)));
    add("time(3)", |r, _| literal(&time(r)));
    add("time with time zone", |r, _| literal(&(time(r) + &zone(r))));
    add("time(2) with time zone", |r, _| literal(&(time(r) + &zone(r))));
    add("timestamp", |r, _| timestamp(r, false));
    add("timestamp(0)", |r, _| timestamp(r, false));
    add("timestamp with time zone", |r, _| timestamp(r, true));
    add("timestamp(3) with time zone", |r, _| timestamp(r, true));
    add("interval", interval);
    add("interval day to second(2)", |r, _| {
        format!("'{} days {}.{}'", r.int(20), r.int(20), r.digits(2))
    });
    add("interval year to month", |r, _| format!("'{} years {} mons'", r.int(16), r.int(10)));
    add("uuid", |r, _| format!("'{}'", r.hex(16)));
    add("inet", |r, _| inet(r));
    add("cidr", |r, _| format!("network({}::inet)", inet(r)));
    add("macaddr", |r, _| format!("'{}'", r.hex(6)));
    add("macaddr8", |r, _| format!("'{}'", r.hex(8)));
    add("bit(9)", |r, _| format!("B'{}'", r.bits(9)));
    add("bit varying", |r, _| {
        let n = r.pick(&[0, 1, 7, 8, 9, 100]);
        format!("B'{}'", r.bits(n))
    });
    add("bit varying(12)", |r, _| {
        let n = r.below(13);
        format!("B'{}'", r.bits(n))
    });
    add("json", |r, _| literal(&json(r, 3)));
    add("jsonb", |r, _| literal(&json(r, 3)));
    add("jsonpath", |r, _| {
        literal(r.pick(&[
            "$.a[*] ? (@ > 1)",
            "strict $.\"q \\\" x\".b[0 to last]",
            "$[*].a.size() + 1.5",
            "$.** ? (@.x like_regex \"^a\\\\.b\" flag \"i\")",
            "-$.a * (2 - $.b)",
            "$ ? (exists (@.\"é\") && !(@.t == null || @.u starts with \"$\"))",
            "$var",
        ]))
    });
    if able.xml {
        add("xml", |r, _| {
            let word = r.word();
            literal(&match r.below(5) {
                0 => format!("<a b=\"{word}\">{word}<!-- c --></a>"),
                1 => "text only, <b>bold</b>".into(),
                2 => "<?xml version=\"1.0\" encoding=\"UTF-8\"?><a>é</a>".into(),
                3 => String::new(),
                _ => format!("<a><![CDATA[ {word} ]]></a>\n"),
            })
        });
    }
    geometry(&mut add);
    add("tsvector", |r, _| match r.below(3) {
        0 => literal(r.pick(&["", "a:1A,2 'b c':3B", "'it''s':16383D 'x\\\\y'", "'é' z:5"])),
        _ => format!("to_tsvector('simple', {})", literal(&r.text(8))),
    });
    add("tsquery", |r, _| match r.below(2) {
        0 => literal(r.pick(&[
            "",
            "a & !b",
            "'it''s' <-> x",
            "(a | 'b c':*) & !(c <3> d)",
            "a:AB | 'x\\\\y':*C",
        ])),
        _ => format!("plainto_tsquery('simple', {})", literal(&r.text(8))),
    });
    add("pg_lsn", |r, _| format!("'{:X}/{:X}'", r.next() as u32, r.next() as u32));
    add("oid", |r, _| format!("{}", r.next() as u32));
    add("xid", |r, _| format!("'{}'", r.next() as u32));
    add("xid8", |r, _| format!("'{}'", r.next()));
    add("cid", |r, _| format!("'{}'", r.next() as u32));
    add("tid", |r, _| format!("'({},{})'", r.next() as u32, r.next() as u16));
    add("pg_snapshot", |r, _| {
        let low = r.below(1000) + 1;
        literal(&format!("{low}:{}:{}", low + 9, low + 3))
    });
    add("txid_snapshot", |_, _| "'10:20:10,14,15'".into());
    add("int2vector", |r, _| literal(r.pick(&["", "1", "-1 2 32767"])));
    add("oidvector", |r, _| literal(r.pick(&["", "1", "4294967295 0"])));
    add("refcursor", |r, _| literal(&r.text(4)));
    add("aclitem", |r, _| {
        literal(r.pick(&["postgres=arwd/postgres", "=r/postgres", "pg_monitor=a*r/postgres"]))
    });
    registered(&mut add);
    ranges(&mut add);
    own(&mut add);
    extended(able, &mut add);
    all
}

type Add<'a> = dyn FnMut(&str, fn(&mut Random, &Able) -> String) + 'a;

fn geometry(add: &mut Add<'_>) {
    add("point", |r, _| literal(&point(r)));
    add("lseg", |r, _| literal(&format!("[{},{}]", point(r), point(r))));
    add("box", |r, _| literal(&format!("{},{}", point(r), point(r))));
    add("path", |r, _| {
        let points = points(r);
        literal(&if r.one_in(2) { format!("[{points}]") } else { format!("({points})") })
    });
    add("polygon", |r, _| literal(&format!("({})", points(r))));
    add("circle", |r, _| literal(&format!("<{},{}>", point(r), r.below(1000))));
    add("line", |r, _| literal(&format!("{{{},{},{}}}", 1 + r.below(9), r.int(8), double(r))));
}

/// Types whose values name objects.
fn registered(add: &mut Add<'_>) {
    add("regclass", |r, _| {
        literal(r.pick(&[
            "pg_class",
            "-",
            "\"my.Types\".mood_seq",
            "4294967295",
            "pg_toast.pg_toast_1255",
        ]))
    });
    add("regtype", |r, _| {
        literal(r.pick(&["int4", "-", "\"my.Types\".\"Pair\"", "text[]", "double precision"]))
    });
    add("regproc", |r, _| literal(r.pick(&["now", "-", "log.quoted"])));
    add("regprocedure", |r, _| literal(r.pick(&["abs(int4)", "-", "log.quoted(text)"])));
    add("regoper", |r, _| literal(r.pick(&["0", "|/"])));
    add("regoperator", |r, _| literal(r.pick(&["+(int4,int4)", "0", "-(NONE,int4)"])));
    add("regnamespace", |r, _| literal(r.pick(&["pg_catalog", "-", "\"my.Types\""])));
    add("regrole", |r, _| literal(r.pick(&["postgres", "-", "pg_monitor"])));
    add("regconfig", |r, _| literal(r.pick(&["simple", "english", "-"])));
    add("regdictionary", |r, _| literal(r.pick(&["simple", "-"])));
    add("regcollation", |r, _| literal(r.pick(&["\"C\"", "\"POSIX\"", "-"])));
}

fn ranges(add: &mut Add<'_>) {
    add("int4range", |r, _| span(r, 16, |n| n.to_string()));
    add("int8range", |r, _| span(r, 60, |n| n.to_string()));
    add("numrange", |r, _| span(r, 40, |n| format!("{n}.500")));
    add("daterange", |r, _| span(r, 12, |n| format!("{:04}-02-28", n + 2050)));
    add("tsrange", |r, _| span(r, 12, |n| format!("{:04}-01-01 09:00:00.5", n + 2050)));
    add("tstzrange", |r, _| span(r, 12, |n| format!("{:04}-01-01 09:00+05:30", n + 2050)));
    add("int4multirange", |r, _| spans(r, "int4", 16, |n| n.to_string()));
    add("int8multirange", |r, _| spans(r, "int8", 60, |n| n.to_string()));
    add("nummultirange", |r, _| spans(r, "num", 40, |n| format!("{n}.500")));
    add("datemultirange", |r, _| spans(r, "date", 12, |n| format!("{:04}-02-01", n + 2050)));
    add("tsmultirange", |r, _| spans(r, "ts", 12, |n| format!("{:04}-02-01", n + 2050)));
    add("tstzmultirange", |r, _| spans(r, "tstz", 12, |n| format!("{:04}-02-01 +03", n + 2050)));
}

fn own(add: &mut Add<'_>) {
    fn mood(r: &mut Random) -> String {
        let label = r.pick(&["sad", "so so", "Happy", "", "it's, \"q\" \\ {x}", "日本"]);
        format!("{}::\"my.Types\".mood", literal(label))
    }
    fn pair(r: &mut Random) -> String {
        let a =
            if r.one_in(4) { "NULL".into() } else { (r.int(32) | 1).unsigned_abs().to_string() };
        let a = if a.len() > 9 { "7".into() } else { a };
        let b = if r.one_in(4) { "NULL".into() } else { literal(&r.text(6)) };
        let c = r.pick(&["NULL", "'NaN'", "1.50", "-0.0", "1e40"]);
        format!("ROW({a}, {b}, {c})::\"my.Types\".\"Pair\"")
    }
    add("\"my.Types\".mood", |r, _| mood(r));
    add("\"my.Types\".\"Pair\"", |r, _| pair(r));
    add("\"my.Types\".nest", |r, _| {
        let (p, q, m) = (pair(r), pair(r), mood(r));
        let t = timestamp(r, true);
        format!("ROW({p}, ARRAY[{m}, NULL], {t}::timestamptz, ARRAY[{q}, NULL])")
    });
    add("\"my.Types\".positive", |r, _| (1 + r.below(2_000_000_000)).to_string());
    add("\"my.Types\".even", |r, _| (2 + 2 * r.below(1_000_000_000)).to_string());
    add("\"my.Types\".words", |r, _| {
        format!("ARRAY[{}, NULL, {}]", literal(&r.text(5)), literal(&r.text(5)))
    });
    add("\"my.Types\".short", |r, _| literal(&clip(&r.text(5), 5)));
    add("\"my.Types\".cents", |r, _| format!("'{}.{}'", r.int(30), r.digits(2)));
    add("\"my.Types\".feeling", |r, _| mood(r));
    add("\"my.Types\".pairs", |r, _| pair(r));
    add("\"my.Types\".flags", |r, _| format!("B'{}'", r.bits(4)));
    add("\"my.Types\".\"floatRange\"", |r, _| span(r, 20, |n| format!("{n}.5")));
    add("\"my.Types\".words_between", |r, _| span(r, 20, |n| format!("\"ä {:08}\"", n + 600_000)));
    add("\"my.Types\".dropped", |r, _| format!("ROW({}, {})", r.int(20), literal(&r.text(4))));
}

fn extended(able: &Able, add: &mut Add<'_>) {
    if able.has("hstore") {
        add("ext.hstore", |r, _| {
            let pairs = r.below(4);
            let keys: Vec<String> = (0..pairs).map(|_| literal(&clip(&r.text(4), 20))).collect();
            let values: Vec<String> = (0..pairs)
                .map(|_| if r.one_in(3) { "NULL".into() } else { literal(&r.text(4)) })
                .collect();
            format!(
                "ext.hstore(ARRAY[{}]::text[], ARRAY[{}]::text[])",
                keys.join(","),
                values.join(",")
            )
        });
    }
    if able.has("citext") {
        add("ext.citext", |r, _| literal(&r.text(6)));
    }
    if able.has("ltree") {
        add("ext.ltree", |r, _| {
            let n = r.below(4);
            literal(&(0..n).map(|_| r.word()).collect::<Vec<_>>().join("."))
        });
        add("ext.lquery", |r, _| literal(r.pick(&["a.*{1,2}.!b", "*.x@*|y%.*", "a"])));
        add("ext.ltxtquery", |r, _| literal(r.pick(&["a & !b*@", "(a | b%) & c"])));
    }
    if able.has("cube") {
        // Without NaN, which has no place in the order of this type: no index finds it.
        add("ext.cube", |r, _| {
            literal(r.pick(&["(1.1,2),(3,-4e300)", "(0)", "(1,2,3)", "()", "(Infinity,1)"]))
        });
    }
    if able.has("seg") {
        add("ext.seg", |r, _| {
            literal(r.pick(&["1.50", "~6.5", "1.0 .. 2.00", "<3 .. 4", "5(+-)0.3"]))
        });
    }
    if able.has("isn") {
        add("ext.isbn", |r, _| literal(r.pick(&["0-306-40615-2", "978-0-393-04002-9"])));
    }
    if able.has("vector") {
        add("ext.vector(3)", |r, _| literal(&format!("[{},{},1.5e-5]", r.int(8), r.int(8))));
        add("ext.halfvec(2)", |r, _| literal(&format!("[{},0.5]", r.int(8))));
        add("ext.sparsevec(5)", |r, _| literal(&format!("{{1:{},3:0.25}}/5", 1 + r.below(9))));
    }
    if able.has("postgis") {
        add("ext.geometry", |r, _| {
            let (x, y) = (r.int(10), r.int(10));
            literal(&match r.below(3) {
                0 => format!("SRID=4326;POINT({x} {y})"),
                1 => format!("LINESTRING Z ({x} {y} 1, 0 0 2)"),
                _ => "GEOMETRYCOLLECTION EMPTY".into(),
            })
        });
        add("ext.geography", |r, _| literal(&format!("POINT({} {})", r.below(90), r.below(90))));
    }
}

fn clip(text: &str, most: usize) -> String {
    let mut bytes = 0;
    text.chars()
        .take(most)
        .take_while(|c| {
            bytes += c.len_utf8();
            bytes <= 60
        })
        .collect()
}

/// Sometimes too long for a page, and sometimes compressible.
fn long(r: &mut Random) -> String {
    match r.below(6) {
        0 => format!("repeat({}, {})", literal(&r.text(6)), 100 + r.below(3000)),
        1 => literal(&(0..200).map(|_| r.text(20)).collect::<String>()),
        _ => literal(&r.text(12)),
    }
}

fn numeric(r: &mut Random, _: &Able) -> String {
    literal(&match r.below(8) {
        0 => r.pick(&["NaN", "Infinity", "-Infinity", "0", "-0.00", "0.000"]).to_owned(),
        1 => format!("{}e{}", r.int(20), r.between(-300, 300)),
        2 => format!("1{}.{}", r.digits(200), r.digits(300)),
        3 => format!("{}.{}00", r.int(40), r.digits(3)),
        4 => format!("1e{}", r.between(-16_000, 130_000)),
        _ => format!("{}.{}", r.int(60), r.digits(5)),
    })
}

fn double(r: &mut Random) -> String {
    match r.below(6) {
        0 => r
            .pick(&["NaN", "Infinity", "-Infinity", "0", "-0", "5e-324", "1.7976931348623157e308"])
            .to_owned(),
        1 => r.int(16).to_string(),
        _ => loop {
            let value = f64::from_bits(r.next());
            if value.is_finite() {
                break format!("{value:e}");
            }
        },
    }
}

fn real(r: &mut Random) -> String {
    match r.below(5) {
        0 => r.pick(&["NaN", "Infinity", "-Infinity", "-0", "1e-45", "3.4028235e38"]).to_owned(),
        _ => loop {
            let value = f32::from_bits(r.next() as u32);
            if value.is_finite() {
                break format!("{value:e}");
            }
        },
    }
}

fn date(r: &mut Random) -> String {
    literal(&match r.below(6) {
        0 => r.pick(&["infinity", "-infinity"]).to_owned(),
        1 => r
            .pick(&["4714-11-24 BC", "5874897-12-31", "0001-01-01", "0001-12-31 BC", "2000-02-29"])
            .to_owned(),
        2 => format!("{:04}-0{}-1{} BC", 1 + r.below(4700), 1 + r.below(9), r.below(10)),
        3 => format!("{}-0{}-1{}", 10_000 + r.below(200_000), 1 + r.below(9), r.below(10)),
        _ => format!("{:04}-0{}-1{}", 1 + r.below(9998), 1 + r.below(9), r.below(10)),
    })
}

fn time(r: &mut Random) -> String {
    match r.below(5) {
        0 => "24:00:00".into(),
        1 => "00:00:00".into(),
        _ => format!("{:02}:{:02}:{:02}.{}", r.below(24), r.below(60), r.below(60), r.digits(6)),
    }
}

fn zone(r: &mut Random) -> String {
    let sign = r.pick(&["+", "-"]);
    match r.below(3) {
        0 => format!("{sign}{:02}", r.below(15)),
        1 => format!("{sign}{:02}:{:02}", r.below(15), r.below(60)),
        _ => format!("{sign}{:02}:{:02}:{:02}", r.below(15), r.below(60), r.below(60)),
    }
}

fn timestamp(r: &mut Random, with_zone: bool) -> String {
    let (year, era) = match r.below(5) {
        0 => {
            return literal(r.pick(&[
                "infinity",
                "-infinity",
                "epoch",
                "4714-11-24 00:00:00+00 BC",
                "294276-12-31 23:59:59+00",
            ]));
        }
        1 => (1 + r.below(4700), " BC"),
        2 => (10_000 + r.below(280_000), ""),
        _ => (1 + r.below(9998), ""),
    };
    let zone = if with_zone { zone(r) } else { String::new() };
    let (month, day, hour) = (1 + r.below(9), r.below(10), r.below(24));
    let fraction = r.digits(6);
    literal(&format!("{year:04}-0{month}-1{day} {hour:02}:{day:02}:59.{fraction}{zone}{era}"))
}

fn interval(r: &mut Random, able: &Able) -> String {
    literal(&match r.below(6) {
        0 if able.major >= 17 => r.pick(&["infinity", "-infinity"]).to_owned(),
        0 | 1 => r
            .pick(&["0", "178000000 years", "-178000000 years", "-1 mon 1 day -00:00:00.000001"])
            .to_owned(),
        2 => format!("{} hours", r.int(31)),
        _ => format!(
            "{} years {} mons {} days {} hours {} mins {}.{} secs",
            r.int(8),
            r.int(8),
            r.int(16),
            r.int(20),
            r.int(8),
            r.int(8),
            r.digits(6)
        ),
    })
}

fn inet(r: &mut Random) -> String {
    literal(&match r.below(4) {
        0 => {
            r.pick(&["::1", "::", "::ffff:1.2.3.4/128", "0.0.0.0/0", "255.255.255.255"]).to_owned()
        }
        1 => format!("fe80::{:x}:{:x}/{}", r.below(65536), r.below(65536), r.below(129)),
        2 => format!("10.{}.{}.{}/{}", r.below(256), r.below(256), r.below(256), r.below(33)),
        _ => format!("10.{}.{}.{}", r.below(256), r.below(256), r.below(256)),
    })
}

fn json(r: &mut Random, depth: usize) -> String {
    fn text(r: &mut Random) -> String {
        match r.below(4) {
            0 => {
                r.pick(&["\"\\u00e4\\ud83d\\ude00\"", "\"a\\\\b\\n\\t\\\"\\/\"", "\"\""]).to_owned()
            }
            _ => serde_json::to_string(&r.text(5)).unwrap(),
        }
    }
    match r.below(if depth == 0 { 4 } else { 6 }) {
        0 => r.pick(&["null", "true", "false"]).to_owned(),
        1 => text(r),
        2 => {
            r.pick(&["0", "-0", "1.10", "1e3", "-1.5E-7", "123456789012345678901234567890"]).into()
        }
        3 => r.int(60).to_string(),
        4 => {
            let n = r.below(4);
            let parts: Vec<String> = (0..n).map(|_| json(r, depth - 1)).collect();
            format!("[{}]", parts.join(r.pick(&[",", " ,  "])))
        }
        _ => {
            // Keys come twice on purpose.
            let n = r.below(4);
            let parts: Vec<String> = (0..n)
                .map(|_| {
                    let key = if r.one_in(2) { "\"a\"".to_owned() } else { text(r) };
                    format!("{key}{}{}", r.pick(&[":", " : "]), json(r, depth - 1))
                })
                .collect();
            format!("{{{}}}", parts.join(r.pick(&[",", ",\n  "])))
        }
    }
}

fn point(r: &mut Random) -> String {
    format!("({},{})", double(r), double(r))
}

fn points(r: &mut Random) -> String {
    let n = 1 + r.below(4);
    (0..n).map(|_| point(r)).collect::<Vec<_>>().join(",")
}

/// Bounds in order; `value` must not turn the order round.
fn span(r: &mut Random, bits: u32, value: fn(i64) -> String) -> String {
    if r.one_in(6) {
        return "'empty'".into();
    }
    let (one, two) = (r.int(bits), r.int(bits));
    let mut bound = |n: i64| if r.one_in(5) { String::new() } else { value(n) };
    let (low, high) = (bound(one.min(two)), bound(one.max(two)));
    let (open, close) = (r.pick(&["[", "("]), r.pick(&["]", ")"]));
    literal(&format!("{open}{low},{high}{close}"))
}

fn spans(r: &mut Random, of: &str, bits: u32, value: fn(i64) -> String) -> String {
    let n = r.below(4);
    let all: Vec<String> =
        (0..n).map(|_| format!("({})::{of}range", span(r, bits, value))).collect();
    format!("{of}multirange(VARIADIC ARRAY[{}]::{of}range[])", all.join(", "))
}
