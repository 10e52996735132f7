//! Every rule with a text that passes and a twin that must not.

use super::citations::{self, Tests};
use super::lexer::{self, SourceLine};
use super::links::{self, Documents};
use super::{Finding, documents, errors, paths, readme, rules};

/// The rules that `body` breaks as a file with a proper heading.
fn broken(body: &str) -> Vec<&'static str> {
    broken_at("colo-proxy/src/gate.rs", &format!("//! The gate.\n{body}\n"))
}

fn broken_at(path: &str, text: &str) -> Vec<&'static str> {
    rules::check(path, text).iter().map(|finding| finding.rule).collect()
}

#[test]
fn comments_and_literals_hide_no_code_and_show_none() {
    let line = |code: &str, comment: &str, strings: &str| SourceLine {
        code: code.into(),
        comment: comment.into(),
        strings: strings.into(),
    };
    assert_eq!(lexer::lines(r#"a("x // y"); // z"#), [line(r#"a(""); "#, "// z", "x // y ")]);
    assert_eq!(lexer::lines("a /* b /* c */ d */ e"), [line("a  e", "/* b /* c */ d */", "")]);
    assert_eq!(lexer::lines("'{' '\\'' 'a: '\\u{7d}'"), [line("' ' ' ' 'a: ' '", "", "")]);
    assert_eq!(lexer::lines(r##"r#"a " b"# c"##), [line(r#""" c"#, "", "a \" b ")]);
    assert_eq!(lexer::lines(r##"br#"a"# for"x""##), [line(r#"b"" for"""#, "", "a x ")]);
    assert_eq!(lexer::lines("\"a\nb\" c"), [line("\"", "", "a"), line("\" c", "", "b ")]);
    assert_eq!(lexer::lines(r#""\\" a"#), [line(r#""" a"#, "", " ")]);
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
fn pages_with_examples() {
    assert!(readme::has_examples("README.md") && readme::has_examples("docs/guides/lanes.md"));
    assert!(!readme::has_examples("CHANGELOG.md") && !readme::has_examples("docs/book.toml"));
}

#[test]
fn examples_that_listen_on_every_address() {
    let fenced = |example: &str| format!("0.0.0.0 in prose\n```toml\n{example}\n```\n");
    assert!(readme::check("README.md", &fenced("mirror = \"tcp:10.0.9.1:9003\"")).is_empty());
    let found = readme::check("README.md", &fenced("mirror = \"tcp:0.0.0.0:9003,server\""));
    assert!(matches!(&found[..], [Finding { line: 3, .. }]), "{found:?}");
    assert_eq!(readme::check("README.md", &fenced("mirror = \"tcp:[::]:9003\"")).len(), 1);
    assert!(readme::check("README.md", &fenced("tcp:[fd00::1]:9003")).is_empty());
}

#[test]
fn configurations_are_told_from_their_parts() {
    let is_whole = |text: &str| readme::blocks(text).iter().all(readme::is_configuration);
    assert!(is_whole("```toml\n# a pair\n[[guest]]\nname = \"web\"\n```\n"));
    assert!(!is_whole("```toml\n[guest.limits]\n```\n"), "a part");
    assert!(!is_whole("```text\n[[guest]]\n```\n"), "no TOML");
}

#[test]
fn the_help_that_has_the_options() {
    let task = |text: &str| {
        let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
        readme::task(&words).join(" ")
    };
    assert_eq!(task("colo-proxy protect web --timeout 5"), "protect");
    assert_eq!(task("colo-proxy offsets export web > offsets"), "offsets export");
    assert_eq!(task("colo-proxy --version"), "");
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
    tests.add("a/tests/pair.rs", "#[lab::lab_test(root)]\nfn up() {}\n#[latest]\nfn no() {}\n");
    tests.add("a/src/tests/marks.rs", "    #[test]\n    #[cfg(x)]\n    fn fin() -> Result<()> {\n");
    tests.add("a/src/protection.rs", "mod tests {\n#[test]\nfn late() {}\n}\n");
    tests.add("t/tests/life.rs", "#[lab_test(root)]\nfn birth() {}\n");
    let cite = |text: &str| citations::check("docs/a.md", text, &tests).len();
    let good = "`lane::tests::cut`, `lane::cut`, `a::tests::marks::fin` `protection::tests::late`";
    assert_eq!(cite(good), 0);
    assert_eq!(cite("`std::Vec`, `--option`, `Engine::new`, `::`, lane::nothing"), 0);
    assert_eq!(cite("`lane::helper`"), 1, "it is no test");
    assert_eq!(cite("`pair::up` `pair::no`"), 1, "of a harness, and none");
    assert_eq!(cite("`marks::cut`\n`lane::fin`"), 2, "they are elsewhere");
    assert_eq!(cite("`lane::tests::gone`"), 1);
}

#[test]
fn modules_that_a_document_cites() {
    let mut tests = Tests::default();
    tests.add("colo-proxy/src/compare/tcp.rs", "");
    tests.add("colo-proxy/src/gate/mod.rs", "");
    let cite = |text: &str| citations::check("docs/a.md", text, &tests).len();
    assert_eq!(cite("`compare::tcp`, `colo_proxy::compare::tcp`, `colo_proxy::gate`"), 0);
    assert_eq!(cite("`std::fmt`"), 0, "it is not ours");
    assert_eq!(cite("`compare::udp`\n`gate::tcp`"), 2, "there is no such file");
}

#[test]
fn links_lead_somewhere() {
    let mut documents = Documents::default();
    for path in ["docs/a.md", "docs/b/c.md", "docs/c.svg", "LICENSE"] {
        documents.add_file(path);
    }
    let headings = "# A `b`, c_d\n## Twice\n## Twice\n```\n# no\n```\n## [x](y) z\n<a id=\"own\">";
    documents.add_text("docs/b/c.md", headings);
    let broken = |text: &str| links::check("docs/a.md", text, &documents).len();
    let good = "[x](b/c.md) [x](c.svg#any) [x](b/) [`x`](b/c.md#a-b-c_d) ![x](b/c.md#twice)\n\
                [x](./b/c.md#twice-1) [x](b/c.md#x-z) [x](b/c.md#own)\n[x]: b/c.md\n<a href=\"b\">";
    assert_eq!(broken(good), 0);
    assert_eq!(broken("[x](https://a.example/b.md) [x](mailto:a@b)\n[^1]: a note"), 0);
    assert_eq!(broken("`[x](no.md)`\n```\n[x](no.md)\n```\n[x] (no.md)"), 0, "it is no link");
    assert_eq!(broken("[x](no.md)\n[x]: no.md\n<img src=\"no.svg\">"), 3);
    assert_eq!(broken("[x](b/c.md#no) [x](b/c.md#twice-2)"), 2, "there is no such heading");
    assert_eq!(broken("[x](../../a.md) [x](/docs/a.md)"), 2, "it leaves the repository");
    assert_eq!(broken("```\n```\n[x](no.md)"), 1, "the block of code has ended");
    assert_eq!(broken("[x](../LICENSE)"), 1, "a reader of the book has no such file");
    assert!(links::check("a.md", "[x](LICENSE)", &documents).is_empty(), "this is no page of it");
}

#[test]
fn links_to_headings_of_the_same_document() {
    let mut documents = Documents::default();
    documents.add_file("a.md");
    documents.add_text("a.md", "# One\n");
    let found = links::check("a.md", "# One\n\n[x](#one) [x](#two)", &documents);
    assert!(matches!(&found[..], [Finding { line: 3, .. }]), "{found:?}");
}

#[test]
fn length_of_documents() {
    let at_the_end = "a".repeat(15 * 1024);
    assert_eq!(documents::length("ARCHITECTURE.md", &at_the_end), None);
    assert!(documents::length("ARCHITECTURE.md", &format!("{at_the_end}a")).is_some());
    assert_eq!(documents::length("README.md", &"a\n".repeat(150)), None);
    assert!(documents::length("README.md", &"a\n".repeat(151)).is_some());
    assert_eq!(documents::length("docs/README.md", &"a\n".repeat(151)), None);
}

#[test]
fn pages_of_the_book() {
    let names = ["README.md", "docs/SUMMARY.md", "docs/README.md", "docs/guides/first.md"];
    let missing = |summary| documents::summary(names.into_iter(), summary).len();
    assert_eq!(missing(Some("[A](README.md)\n- [B](./guides/first.md)")), 0);
    assert_eq!(missing(Some("[A](README.md)")), 1);
    assert_eq!(missing(None), 1, "there is no book without it");
}

/// The lines at which `body` prints an error without its causes.
fn hidden(body: &str) -> Vec<usize> {
    let found = errors::check("colo-proxy/src/gate.rs", body);
    found.into_iter().map(|finding| finding.line).collect()
}

#[test]
fn errors_without_their_causes() {
    assert_eq!(hidden("log::warn!(\"no: {}\", chain(&error));\nformat!(\"{error:#}\")"), [0; 0]);
    assert_eq!(hidden("log::warn!(\"no: {error}\");\nformat!(\"{err:?} {n}\");"), [1, 2]);
    assert_eq!(hidden("Reply::Error(error.to_string());\nmap_err(|e| e.to_string())"), [1, 2]);
    assert_eq!(hidden("format!(\"{{}}: {}\", error);\nformat!(\"{a}\", a = &error)"), [1, 2]);
    assert_eq!(hidden("eprintln!(\n    \"{}: {}\",\n    name,\n    error,\n);"), [4]);
    assert_eq!(hidden("bail!(\"{:#}\", error); format!(\"{}\", error.code())"), [0; 0]);
    assert_eq!(hidden("format!(\"{errors} {terror} {error.x}\"); terror.to_string()"), [0; 0]);
    assert_eq!(hidden("call(name, error); Err(error)?; // {error}"), [0; 0]);
}

#[test]
fn errors_by_their_type() {
    assert_eq!(hidden("fn f(why: &io::Error) {\n    format!(\"{why}\");\n}"), [2]);
    assert_eq!(hidden("fn f(\n    why: LaneError,\n) {\n    why.to_string();\n}"), [4]);
    assert_eq!(hidden("|why: EndpointError| why.to_string()"), [1]);
    assert_eq!(hidden("fn f(why: &str) -> io::Error {\n    format!(\"{why}\");\n}"), [0; 0]);
    assert_eq!(hidden("f(LaneError::A); A { why: LaneError::A }; format!(\"{why}\");"), [0; 0]);
}

#[test]
fn texts_with_the_name_of_an_error() {
    let line = "format!(\"{source}\");";
    assert_eq!(hidden(&format!("{line} // no chain: an address.")), [0; 0]);
    assert_eq!(hidden(&format!("// no chain: an address.\n{line}")), [0; 0]);
    assert_eq!(hidden(&format!("a(); // no chain: not the next line.\n{line}")), [2, 1]);
    assert_eq!(hidden("// no chain: nothing is here.\na();"), [1], "it is stale");
}

#[test]
fn errors_that_only_tests_print() {
    let inline = "#[cfg(test)]\nmod tests {\n    fn a() {\n        panic!(\"{error}\");\n    }\n}";
    assert_eq!(hidden(inline), [0; 0]);
    assert_eq!(hidden(&format!("{inline}\nformat!(\"{{error}}\");")), [7]);
    let at = |path: &str| errors::check(path, "format!(\"{error}\");").len();
    assert_eq!(at("colo-proxy/src/gate/tests.rs") + at("tests/src/a.rs"), 0);
    assert_eq!(at("colo-proxy-engine/src/pair/simulation/world.rs"), 0);
    assert_eq!(at("colo-proxy-engine/src/pair/cut.rs"), 1);
}
