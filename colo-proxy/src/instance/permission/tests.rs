use std::os::unix::fs::PermissionsExt;

use super::*;

fn script(dir: &tempfile::TempDir, name: &str, body: &str) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn permission(quorum: Option<PathBuf>, fence: Option<PathBuf>) -> PermissionTask {
    PermissionTask {
        takeover: TakeoverConfig { fence, quorum, timeout: Duration::from_secs(5) },
        role: Role::Secondary,
        instance: "web".into(),
        netdev: "tap0".into(),
        asking: None,
    }
}

#[tokio::test]
async fn the_quorum_is_asked_before_anybody_is_fenced() {
    let dir = tempfile::tempdir().unwrap();
    let note =
        r#"echo "$(basename "$0") $COLO_PROXY_INSTANCE $COLO_PROXY_ROLE" >> "$(dirname "$0")/log""#;
    let quorum = script(&dir, "quorum", note);
    let fence = script(&dir, "fence", note);
    let mut permission = permission(Some(quorum.clone()), Some(fence));
    permission.ask();
    assert_eq!(permission.next().await, Ok(()));
    let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
    assert_eq!(log, "quorum web secondary\nfence web secondary\n");
    // The twin whose quorum says no fences nobody.
    script(&dir, "quorum", "exit 3");
    permission.ask();
    let Err(PermissionRefusal::Quorum(why)) = permission.next().await else {
        panic!("the quorum says no")
    };
    assert!(why.contains("says no") && why.contains('3'), "{why}");
    assert_eq!(std::fs::read_to_string(dir.path().join("log")).unwrap(), log);
}

/// What runs in a process group; what is dead and not reaped does not.
fn alive(group: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let stats =
        processes.filter_map(|process| std::fs::read_to_string(process.path().join("stat")).ok());
    let is_one = |stat: &String| {
        // Behind the name: state, parent, group.
        let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        fields[0] != "Z" && fields[0] != "X" && fields[2] == group
    };
    stats.filter(is_one).collect()
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    let looking = async {
        while !is_so() {
            tick.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), looking).await.expect(what);
}

/// Starts another process and waits for it, as scripts do; its group is in the file `name.group`.
fn hanging(dir: &tempfile::TempDir, name: &str) -> (PathBuf, impl Fn() -> String + use<>) {
    let path =
        script(dir, name, "sleep 60 &\necho $$ > \"$0.tmp\"; mv \"$0.tmp\" \"$0.group\"\nwait");
    let file = dir.path().join(format!("{name}.group"));
    (path, move || std::fs::read_to_string(&file).unwrap_or_default().trim().to_owned())
}

#[tokio::test]
async fn one_that_hangs_is_ended_with_all_that_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let (path, group) = hanging(&dir, "hangs");
    for is_fence in [false, true] {
        let mut hangs =
            permission((!is_fence).then(|| path.clone()), is_fence.then(|| path.clone()));
        hangs.takeover.timeout = Duration::from_secs(1);
        hangs.ask();
        until("it runs", || !group().is_empty()).await;
        assert_eq!(alive(&group()).len(), 2, "the script and its sleep");
        let refused = hangs.next().await.unwrap_err();
        assert!(refused.to_string().contains("did not end in 1000 ms"), "{refused}");
        assert_eq!(matches!(refused, PermissionRefusal::Fence(_)), is_fence);
        until("it is ended", || alive(&group()).is_empty()).await;
        std::fs::remove_file(dir.path().join("hangs.group")).unwrap();
    }
}

#[tokio::test]
async fn one_that_is_missing_is_named() {
    let missing = PathBuf::from("/nonexistent/command");
    for is_fence in [false, true] {
        let mut permission =
            permission((!is_fence).then(|| missing.clone()), is_fence.then(|| missing.clone()));
        permission.ask();
        let refused = permission.next().await.unwrap_err();
        assert!(refused.to_string().contains("cannot run /nonexistent/command"), "{refused}");
        assert_eq!(matches!(refused, PermissionRefusal::Fence(_)), is_fence);
    }
}

#[tokio::test]
async fn it_ends_with_its_owner() {
    let dir = tempfile::tempdir().unwrap();
    let (path, group) = hanging(&dir, "fence");
    let mut dropped = permission(None, Some(path));
    dropped.ask();
    until("it runs", || !group().is_empty()).await;
    drop(dropped);
    until("it is ended", || alive(&group()).is_empty()).await;
}

#[tokio::test]
async fn a_question_that_was_withdrawn_fences_nobody_and_has_no_answer() {
    let dir = tempfile::tempdir().unwrap();
    let (quorum, group) = hanging(&dir, "quorum");
    let fence = script(&dir, "fence", "touch \"$0.ran\"");
    let mut permission = permission(Some(quorum), Some(fence));
    permission.ask();
    until("it runs", || !group().is_empty()).await;
    permission.withdraw();
    until("it is ended", || alive(&group()).is_empty()).await;
    assert!(permission.asking.is_none());
    // A yes that was there already is not that of the next question.
    script(&dir, "quorum", "exit 0");
    permission.takeover.fence = None;
    permission.ask();
    until("it has said yes", || permission.asking.as_ref().unwrap().task.is_finished()).await;
    permission.withdraw();
    script(&dir, "quorum", "exit 1");
    permission.ask();
    assert!(matches!(permission.next().await, Err(PermissionRefusal::Quorum(_))));
    assert!(!dir.path().join("fence.ran").exists());
}

#[tokio::test]
async fn between_the_quorum_and_the_fence_it_is_looked_whether_it_was_withdrawn() {
    let dir = tempfile::tempdir().unwrap();
    let question = |fence| PermissionCommands {
        quorum: None,
        fence: Some(fence),
        timeout: Duration::from_secs(5),
        environment: ["A", "B", "C"].map(|name| (name, String::new())),
    };
    for (stage, is_run) in [(Stage::Withdrawn, false), (Stage::Quorum, true)] {
        let fence = script(&dir, "fence", "touch \"$0.ran\"");
        let answer = question(fence).decide(Arc::new(Mutex::new(stage))).await;
        assert_eq!((answer.is_ok(), dir.path().join("fence.ran").exists()), (is_run, is_run));
    }
}

#[tokio::test]
async fn a_fence_that_has_begun_is_not_withdrawn() {
    let dir = tempfile::tempdir().unwrap();
    let fence = script(
        &dir,
        "fence",
        "touch \"$0.runs\"\nuntil [ -e \"$0.may-end\" ]; do sleep 0.01; done",
    );
    let mut permission = permission(None, Some(fence));
    permission.ask();
    until("it runs", || dir.path().join("fence.runs").exists()).await;
    permission.withdraw();
    // It is that question that is answered.
    permission.ask();
    std::fs::write(dir.path().join("fence.may-end"), "").unwrap();
    assert_eq!(permission.next().await, Ok(()));
}
