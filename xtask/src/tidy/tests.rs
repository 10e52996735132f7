//! Every rule with a text that passes and a twin that must not.

use super::citations::{self, Tests};
use super::lexer::{self, Line};
use super::{Finding, paths, readme, rules};

/// The rules that `body` breaks as a file with a proper heading.
fn broken(body: &str) -> Vec<&'static str> {
    broken_at("colo-proxy/src/gate.rs", &format!("//! The gate.\n{body}\n"))
}

fn broken_at(path: &str, text: &str) -> Vec<&'static str> {
    rules::check(path, text).iter().map(|finding| finding.rule).collect()
}

#[test]
fn comments_and_literals_hide_no_code_and_show_none() {
    let line = |code: &str, comment: &str| Line { code: code.into(), comment: comment.into() };
    assert_eq!(lexer::lines(r#"a("x // y"); // z"#), [line(r#"a(""); "#, "// z")]);
    assert_eq!(lexer::lines("a /* b /* c */ d */ e"), [line("a  e", "/* b /* c */ d */")]);
    assert_eq!(lexer::lines("'{' '\\'' 'a: '\\u{7d}'"), [line("' ' ' ' 'a: ' '", "")]);
    assert_eq!(lexer::lines(r##"r#"a " b"# c"##), [line(r#""" c"#, "")]);
    assert_eq!(lexer::lines(r##"br#"a"# for"x""##), [line(r#"b"" for"""#, "")]);
    assert_eq!(lexer::lines("\"a\nb\" c"), [line("\"", ""), line("\" c", "")]);
    assert_eq!(lexer::lines(r#""\\" a"#), [line(r#""" a"#, "")]);
}

#[test]
fn file_length() {
    assert!(broken(&"\n".repeat(798)).is_empty());
    assert_eq!(broken(&"\n".repeat(799)), ["file length"]);
}

#[test]
fn function_length() {
    let function = |lines: usize| format!("fn f(a: [u8; 4]) {{\n{}}}", "a();\n".repeat(lines));
    assert!(broken(&function(68)).is_empty());
    assert_eq!(broken(&function(69)), ["function length"]);
    let declared = format!("fn f(a: [u8; 4]) -> fn(u8);\n{}", "a!{}\n".repeat(80));
    assert!(broken(&declared).is_empty());
}

#[test]
fn unfinished_work() {
    assert!(broken("// todo! one day\nlet a = \"dbg!\"; let b = not_dbg!();").is_empty());
    assert_eq!(broken("todo!();\ndbg!(1);\nunimplemented!();"), ["unfinished"; 3]);
}

#[test]
fn ignored_tests() {
    assert!(broken("#[test]").is_empty());
    assert_eq!(broken("#[ignore = \"slow\"]"), ["ignored test"]);
}

#[test]
fn sleeping() {
    assert!(broken("// sleep( no\nasleep();").is_empty());
    assert_eq!(broken("thread::sleep(LONG);"), ["sleep"]);
    let listed = "colo-proxy/src/endpoint.rs";
    assert!(broken_at(listed, "//! Peers.\nsleep(RETRY).await;\n").is_empty());
    assert_eq!(broken_at(listed, "//! Peers.\n"), ["sleep"], "a list must not outlive its reasons");
}

#[test]
fn reasons_of_allowed_lints() {
    assert!(broken("#[allow(dead_code, reason = \"why\")]\nx.expect(\"y\");").is_empty());
    assert!(broken("#[expect(\n  dead_code,\n  reason = \"why\"\n)]").is_empty());
    assert_eq!(broken("#[allow(dead_code)]\n// reason\n"), ["allow without reason"]);
    assert_eq!(broken("#![expect(\n  dead_code,\n)]"), ["allow without reason"]);
}

#[test]
fn reasons_of_unsafe_code() {
    assert!(broken("// SAFETY: sound.\nlet a = unsafe { b() };").is_empty());
    assert!(broken("// SAFETY: sound.\nlet a =\n    unsafe { b() };").is_empty());
    assert!(broken("// SAFETY: sound,\n// it is.\n#[x]\nunsafe impl A for B {}").is_empty());
    assert!(broken("unsafe fn a() {}\n#[unsafe(no_mangle)]\nfn b() {}").is_empty());
    assert_eq!(broken("let a = unsafe { b() };"), ["unsafe without SAFETY"]);
    assert_eq!(
        broken("// SAFETY: sound.\na();\nunsafe { b() };"),
        ["unsafe without SAFETY"],
        "a comment speaks of the statement below it only"
    );
}

#[test]
fn names_and_docs_of_modules() {
    assert!(broken_at("colo-proxy-common/src/seq.rs", "#![no_std]\n\n//! Numbers.\n").is_empty());
    assert_eq!(broken_at("a/src/seq.rs", "// Numbers.\n"), ["module doc"]);
    assert!(broken_at("a/src/seq/tests.rs", "use super::Seq;\n").is_empty());
    assert_eq!(broken_at("a/src/net/util.rs", "//! Things.\n"), ["module name"]);
    assert_eq!(broken_at("a/src/helpers/tap.rs", "//! A TAP.\n"), ["module name"]);
    assert_eq!(broken("pub mod manager;"), ["module name"]);
    assert!(broken("mod model;").is_empty());
}

#[test]
fn places_of_one_machine() {
    assert!(paths::check("a.md", b"/workspace and /rooted").is_empty());
    assert!(paths::check("a.md", concat!("/proc/1/ro", "ot/sys").as_bytes()).is_empty());
    let text = format!("fine\n{}", concat!("cd /wo", "rk/x"));
    let found = paths::check("a.md", text.as_bytes());
    assert!(matches!(&found[..], [Finding { line: 2, .. }]), "{found:?}");
}

#[test]
fn commands_of_the_readme() {
    let fenced = |command: &str| format!("text\n```sh\n{command}\n```\ncargo xtask no\n");
    assert!(readme::check("README.md", &fenced("sudo cargo xtask demo --plain # now")).is_empty());
    assert!(readme::check("README.md", &fenced("cargo xtask \\\n test --no-root")).is_empty());
    let found = readme::check("README.md", &fenced("cargo xtask demos"));
    assert!(matches!(&found[..], [Finding { line: 3, .. }]), "{found:?}");
    assert_eq!(readme::check("README.md", &fenced("cargo xtask demo --fast")).len(), 1);
}

#[test]
fn options_of_the_daemon() {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let help = "Options:\n  --netdev <IFACE>  --vnet-hdr-support";
    assert_eq!(readme::unknown_option(&words("colo-proxy primary --netdev=tap0"), help), None);
    assert_eq!(
        readme::unknown_option(&words("colo-proxy primary --vnet-hdr on"), help),
        Some("--vnet-hdr")
    );
}

#[test]
fn tests_that_a_document_cites() {
    let mut tests = Tests::default();
    tests.add("a/src/lane/tests.rs", "#[test]\nfn cut() {}\nfn helper() {}\n");
    tests.add("a/src/tests/marks.rs", "    #[test]\n    #[cfg(x)]\n    fn fin() -> Result<()> {\n");
    tests.add("a/src/protection.rs", "mod tests {\n#[test]\nfn late() {}\n}\n");
    tests.add("t/tests/life.rs", "#[lab_test(root)]\nfn birth() {}\n");
    let cite = |text: &str| citations::check("docs/a.md", text, &tests).len();
    let good = "`lane::tests::cut`, `lane::cut`, `a::tests::marks::fin` `protection::tests::late`";
    assert_eq!(cite(good), 0);
    assert_eq!(cite("`std::Vec`, `--option`, `Engine::new`, lane::nothing"), 0);
    assert_eq!(cite("`life::birth`"), 0);
    assert_eq!(cite("`lane::helper`"), 1, "it is no test");
    assert_eq!(cite("`marks::cut`\n`lane::fin`"), 2, "they are elsewhere");
    assert_eq!(cite("`lane::tests::gone`"), 1);
}
