//! Asking an instance.

use super::{Reply, Request, StatusError, ask, find, running, serve};

#[tokio::test]
async fn an_instance_is_listed_found_asked_and_gone() {
    let dir = tempfile::tempdir().expect("a directory");
    let (file, mut questions) = serve(dir.path(), "tap0@hosta").expect("it listens");
    assert_eq!(running(dir.path()).expect("listed"), ["tap0@hosta"]);
    assert_eq!(find(dir.path(), "tap0").expect("found"), "tap0@hosta");
    let at = dir.path().to_owned();
    let asked = tokio::task::spawn_blocking(move || ask(&at, "tap0@hosta", &Request::Failover));
    let (request, reply) = questions.recv().await.expect("a question");
    assert_eq!(request, Request::Failover);
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
