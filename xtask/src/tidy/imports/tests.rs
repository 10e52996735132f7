//! Each rule with a crate that follows it, and a twin that does not.

use super::{CIRCLE, CrateRule, FOREIGN, RULES, Texts, check_sources, check_tree};

const ANY: CrateRule =
    CrateRule { package: "made-up", no_paths: &["std", "tokio"], no_packages: &["tokio", "aya"] };

fn texts(files: &[(&str, &str)]) -> Texts {
    files.iter().map(|(path, text)| (format!("made-up/src/{path}"), (*text).to_owned())).collect()
}

/// What the circle's line says, for each circle; without the folder.
fn circles(files: &[(&str, &str)]) -> Vec<String> {
    let findings = check_sources(&ANY, &texts(files));
    let circles = findings.into_iter().filter(|finding| finding.rule == CIRCLE);
    let text = |what: &str| what.replace("made-up/src/", "").replace(": move what they share", "");
    circles.map(|finding| text(&finding.what)).collect()
}

/// The forbidden names, with their lines.
fn foreign(text: &str) -> Vec<(usize, String)> {
    let findings = check_sources(&ANY, &texts(&[("lib.rs", "mod a;"), ("a.rs", text)]));
    let foreign = findings.into_iter().filter(|finding| finding.rule == FOREIGN);
    foreign.map(|found| (found.line, found.what.replace("made-up may not use ", ""))).collect()
}

#[test]
fn two_files_that_import_from_each_other() {
    let one_way = [("a.rs", "use crate::b::B;"), ("b.rs", "use std::fmt;"), ("c.rs", "")];
    assert!(circles(&one_way).is_empty());
    let twin = [("a.rs", "use crate::b::B;"), ("b.rs", "use super::a::{self, A};"), ("c.rs", "")];
    assert_eq!(circles(&twin), ["a.rs -> b.rs -> a.rs"]);
}

#[test]
fn the_finding_names_the_line_and_the_files_of_the_way_round() {
    let files = [
        ("a.rs", "//! A.\n\nuse crate::b::B;\n"),
        ("b.rs", "use crate::{c::C, d::D};"),
        ("c.rs", "pub fn c() {\n    crate::a::a();\n}"),
        ("d.rs", ""),
    ];
    let findings = check_sources(&ANY, &texts(&files));
    let [found] = &findings[..] else { panic!("{findings:?}") };
    assert_eq!((found.path.as_str(), found.line), ("made-up/src/a.rs", 3));
    assert!(
        found.what.contains("a.rs -> made-up/src/b.rs -> made-up/src/c.rs -> made-up/src/a.rs")
    );
}

#[test]
fn two_knots_are_two_findings() {
    let files = [
        ("a.rs", "use crate::b::B;"),
        ("b.rs", "use crate::a::A; use crate::c::C;"),
        ("c.rs", "use crate::d::D;"),
        ("d.rs", "use crate::c::C;"),
    ];
    assert_eq!(circles(&files), ["a.rs -> b.rs -> a.rs", "c.rs -> d.rs -> c.rs"]);
}

#[test]
fn a_parent_may_use_its_parts_and_a_part_its_parent() {
    let files = [
        ("a.rs", "mod b;\npub use b::B;\nuse self::b::help;\nfn f() { b::g() }"),
        ("a/b.rs", "use super::A;"),
    ];
    assert!(circles(&files).is_empty());
    // The part's friend imports from the parent, and the parent from it.
    let twin = [
        ("a.rs", "mod b;\nuse crate::c::C;"),
        ("a/b.rs", "use super::A;"),
        ("c.rs", "use crate::a::A;"),
    ];
    assert_eq!(circles(&twin), ["a.rs -> c.rs -> a.rs"]);
}

#[test]
fn a_reexport_leads_to_the_file_that_defines() {
    let files = |b: &'static str| {
        [
            ("x/mod.rs", "mod a;\nmod b;\npub use a::A as First;\npub use self::b::B;\n"),
            ("x/a.rs", "use super::B;"),
            ("x/b.rs", b),
        ]
    };
    assert!(circles(&files("use super::Own;")).is_empty());
    assert_eq!(circles(&files("use crate::x::First;")), ["x/a.rs -> x/b.rs -> x/a.rs"]);
    assert_eq!(circles(&files("use crate::x;\nfn f(_: x::First) {}")).len(), 1, "by the module");
    assert!(circles(&files("use crate::x;\nfn f(_: x::Own) {}")).is_empty());
}

#[test]
fn modules_inside_a_file_belong_to_it() {
    let files = |inner: &'static str| [("a.rs", "use crate::b::words::WORD;"), ("b.rs", inner)];
    assert!(circles(&files("pub mod words { use super::Thing; }")).is_empty());
    assert_eq!(circles(&files("pub mod words { use crate::a::A; }")).len(), 1);
}

#[test]
fn tests_and_the_simulation_may_import_what_they_like() {
    let a = ("a.rs", "use crate::b::B;");
    for test in [
        ("b.rs", "#[cfg(test)]\nuse crate::a::A;"),
        ("b.rs", "#[cfg(test)]\nmod tests {\n    use crate::a::A;\n}"),
        ("b.rs", "#[cfg(all(test, x))]\nfn f(a: [u8; 3]) { crate::a::f() }"),
        ("b/tests.rs", "use crate::a::A; use super::B;"),
        ("b/simulation/mod.rs", "use crate::a::A;"),
    ] {
        assert!(circles(&[a, test]).is_empty(), "{test:?}");
    }
    assert!(
        circles(&[a, ("b.rs", "#[cfg(test)] mod rig;"), ("b/rig.rs", "use crate::a::A;")])
            .is_empty()
    );
    let twin = ("b.rs", "#[cfg(test)]\nmod tests {}\n#[cfg(not(test))]\nuse crate::a::A;");
    assert_eq!(circles(&[a, twin]).len(), 1, "behind the tests");
}

#[test]
fn words_that_are_no_imports() {
    let a = ("a.rs", "use crate::b::B;");
    for text in [
        "// use crate::a::A;",
        "/// [`crate::a::A`]",
        "const X: &str = \"crate::a::A\";",
        "pub(in crate::a) struct S;",
        "pub(super) fn f() -> impl Fn() + use<'a> {}",
    ] {
        assert!(circles(&[a, ("b.rs", text)]).is_empty(), "{text}");
    }
}

#[test]
fn a_crate_that_is_not_granted() {
    assert!(foreign("use core::fmt;\nuse stdx::a; // std::fmt\nx::std::f();").is_empty());
    assert_eq!(
        foreign("use tokio::net;\n#[cfg(test)]\nuse std::fs;\nfn f() { std::process::exit(1) }"),
        [(1, "`tokio`".to_owned()), (4, "`std`".to_owned())]
    );
}

#[test]
fn a_package_that_is_not_granted() {
    let fine = "made-up v1.0.0\nbytes v1.0.0\ntokiox v1.0.0\n";
    assert!(check_tree(&ANY, fine).is_empty());
    let twin = format!("{fine}aya-obj v0.3.0\ntokio v1.54.0 (*)\ntokio v1.54.0\n");
    let findings = check_tree(&ANY, &twin);
    assert_eq!(findings.len(), 2, "{findings:?}");
    assert!(findings[0].what.contains("`aya-obj`") && findings[1].what.contains("`tokio`"));
}

#[test]
fn the_crates_of_this_workspace_have_rules() {
    let engine = RULES.iter().find(|rule| rule.package == "colo-proxy-engine").expect("a rule");
    assert!(!check_tree(engine, "nix v0.31.0").is_empty());
    let tokio = texts(&[("lib.rs", "use tokio::net::UnixStream;")]);
    assert!(!check_sources(engine, &tokio).is_empty());
    let common = RULES.iter().find(|rule| rule.package == "colo-proxy-common").expect("a rule");
    assert!(!check_sources(common, &texts(&[("lib.rs", "use std::net::IpAddr;")])).is_empty());
}
