//! Asking an instance.

mod answers;
mod samples;
mod schema;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;

use super::{Reply, Request, SCHEMA, Status, StatusError, ask, find, running, serve};
use crate::error_chain::chain;

#[tokio::test]
async fn an_instance_is_listed_found_asked_and_gone() {
    let dir = tempfile::tempdir().expect("a directory");
    let (file, mut questions) = serve(dir.path(), "tap0@hosta").expect("it listens");
    assert_eq!(running(dir.path()).expect("listed"), ["tap0@hosta"]);
    assert_eq!(find(dir.path(), "tap0").expect("found"), "tap0@hosta");
    let at = dir.path().to_owned();
    let asked = tokio::task::spawn_blocking(move || {
        ask(&at, "tap0@hosta", &Request::Failover { force: false })
    });
    let (request, reply) = questions.recv().await.expect("a question");
    assert_eq!(request, Request::Failover { force: false });
    reply.send(Reply::Done("on its own".into())).expect("it waits");
    assert_eq!(asked.await.expect("no panic").expect("answered"), Reply::Done("on its own".into()));
    drop(file);
    assert!(matches!(find(dir.path(), "tap0"), Err(StatusError::Unknown { .. })));
}

#[tokio::test]
async fn an_answer_with_many_frames_comes_whole() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_file, mut questions) = serve(dir.path(), "tap0").expect("it listens");
    let at = dir.path().to_owned();
    let request = Request::Divergences { frames: true };
    let asked = tokio::task::spawn_blocking({
        let request = request.clone();
        move || ask(&at, "tap0", &request)
    });
    let (got, reply) = questions.recv().await.expect("a question");
    assert_eq!(got, request);
    let answer = Reply::Offsets("0f".repeat(4 << 20));
    reply.send(answer.clone()).expect("it waits");
    assert_eq!(asked.await.expect("no panic").expect("answered"), answer);
}

#[tokio::test]
async fn a_name_that_means_two_instances_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let _a = serve(dir.path(), "tap0").expect("it listens");
    let _b = serve(dir.path(), "tap0@hostb").expect("it listens");
    assert!(matches!(find(dir.path(), "tap0"), Err(StatusError::Ambiguous { .. })));
    assert_eq!(find(dir.path(), "tap0@hostb").expect("one"), "tap0@hostb");
}

/// What `ask` makes of a daemon that answers with `line`.
fn asked(line: &str) -> Result<Reply, StatusError> {
    let dir = tempfile::tempdir().expect("a directory");
    let listener = UnixListener::bind(dir.path().join("web.sock")).expect("it listens");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut request = String::new();
            BufReader::new(&stream).read_line(&mut request).expect("a request");
            writeln!(stream, "{line}").expect("the client reads");
        });
        ask(dir.path(), "web", &Request::Status)
    })
}

/// An answer in the form of a daemon whose schema is `schema`.
fn answer_of_schema(schema: Option<u32>) -> String {
    let mut status = serde_json::to_value(samples::secondary()).expect("it is written");
    let fields = status.as_object_mut().expect("an object");
    match schema {
        Some(schema) => fields.insert("schema".into(), schema.into()),
        None => fields.remove("schema"),
    };
    serde_json::json!({ "status": status }).to_string()
}

#[test]
fn an_answer_of_the_same_schema_is_read() {
    let reply = asked(&answer_of_schema(Some(SCHEMA))).expect("it is read");
    assert_eq!(reply, Reply::Status(Box::new(samples::secondary())));
}

#[test]
fn an_answer_of_another_schema_is_refused_with_both_versions() {
    let error = asked(&answer_of_schema(Some(SCHEMA + 1))).expect_err("another schema");
    let text = chain(&error);
    for word in ["instance web", "has schema 2", "reads schema 1", "restart the daemon"] {
        assert!(text.contains(word), "no `{word}` in: {text}");
    }
}

#[test]
fn an_answer_without_a_schema_is_of_an_older_daemon() {
    let old = r#"{"status":{"instance":"web","role":"primary","mode":"waiting"}}"#;
    for line in [old, &answer_of_schema(None), r#"{"divergences":{"instance":"web"}}"#] {
        let text = chain(&asked(line).expect_err("no schema"));
        for word in ["instance web", "names no schema", "older", "restart the daemon"] {
            assert!(text.contains(word), "no `{word}` in: {text}");
        }
    }
}

#[test]
fn an_answer_that_lacks_a_field_is_refused_with_its_name() {
    let text = answer_of_schema(Some(SCHEMA)).replace("\"epoch\"", "\"another\"");
    let text = chain(&asked(&text).expect_err("a field is missing"));
    for word in ["instance web", "same version", "epoch"] {
        assert!(text.contains(word), "no `{word}` in: {text}");
    }
}

#[test]
fn answers_without_a_version_are_read_as_before() {
    let done = asked(r#"{"done":"on its own"}"#).expect("it is read");
    assert_eq!(done, Reply::Done("on its own".into()));
    let error = asked(r#"{"error":"not now"}"#).expect_err("refused");
    assert_eq!(chain(&error), "instance web: not now");
}

#[test]
fn fields_that_are_not_known_are_ignored() {
    let mut status = serde_json::to_value(samples::primary()).expect("it is written");
    let places = [
        "",
        "/detail",
        "/detail/engine",
        "/detail/lanes",
        "/detail/lanes/kernel",
        "/detail/kernel",
    ];
    for place in places {
        let object = status.pointer_mut(place).and_then(|place| place.as_object_mut());
        object.expect("an object").insert("not_known_yet".into(), "x".into());
    }
    let read: Status = serde_json::from_value(status).expect("it is read");
    assert_eq!(read, samples::primary());
}
