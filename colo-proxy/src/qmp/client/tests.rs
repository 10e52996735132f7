use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};

use super::*;

const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 3, "minor": 1, "major": 11}}, "capabilities": ["oob"]}}"#;
const VERSION: QemuVersion = QemuVersion { major: 11, minor: 1, micro: 3 };

/// A QEMU that says what a test wants.
struct Qemu {
    from: tokio::io::Lines<BufReader<OwnedReadHalf>>,
    to: OwnedWriteHalf,
}

impl Qemu {
    fn of(stream: UnixStream) -> Self {
        let (from, to) = stream.into_split();
        Self { from: BufReader::new(from).lines(), to }
    }

    async fn say(&mut self, line: &str) {
        self.to.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    async fn hear(&mut self) -> Value {
        serde_json::from_str(&self.from.next_line().await.unwrap().unwrap()).unwrap()
    }

    async fn negotiate(&mut self) {
        self.say(GREETING).await;
        assert_eq!(self.hear().await["execute"], "qmp_capabilities");
        self.say(r#"{"return": {}, "id": 0}"#).await;
    }
}

struct Stand {
    _dir: tempfile::TempDir,
    listener: UnixListener,
    client: QmpClient,
}

async fn stand() -> Stand {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("qmp");
    let listener = UnixListener::bind(&path).unwrap();
    let endpoint = format!("unix:{}", path.display()).parse().unwrap();
    let client = QmpClient::open(endpoint).await.unwrap();
    Stand { _dir: dir, listener, client }
}

impl Stand {
    async fn accept(&self) -> Qemu {
        Qemu::of(self.listener.accept().await.unwrap().0)
    }
}

#[tokio::test]
async fn it_negotiates_asks_and_is_answered_by_number() {
    let mut stand = stand().await;
    let mut qemu = stand.accept().await;
    qemu.negotiate().await;
    assert_eq!(stand.client.next().await, QmpIncoming::Up(VERSION));
    let first = stand.client.execute("query-status", &json!({})).unwrap();
    let second = stand.client.execute("query-migrate", &json!({})).unwrap();
    for (command, id) in [("query-status", first), ("query-migrate", second)] {
        assert_eq!(qemu.hear().await, json!({"execute": command, "arguments": {}, "id": id}));
    }
    // What nobody knows or asked, and answers in another order.
    qemu.say(r#"{"event": "NEW_IN_QEMU_99", "data": {"a": [1]}}"#).await;
    qemu.say("nonsense").await;
    qemu.say(r#"{"return": {}, "id": 99}"#).await;
    qemu.say(r#"{"return": {}, "id": 0}"#).await;
    qemu.say(&format!(r#"{{"error": {{"class": "GenericError", "desc": "no"}}, "id": {second}}}"#))
        .await;
    // A second answer to the same command is none.
    qemu.say(&format!(r#"{{"return": {{}}, "id": {second}}}"#)).await;
    qemu.say(&format!(r#"{{"return": {{"status": "colo"}}, "id": {first}}}"#)).await;
    qemu.say(r#"{"event": "STOP"}"#).await;
    let QmpIncoming::Reply { id, result: Err(refusal) } = stand.client.next().await else {
        panic!("a refusal was said")
    };
    assert_eq!((id, refusal.to_string().as_str()), (second, "no"));
    let answer = QmpIncoming::Reply { id: first, result: Ok(json!({"status": "colo"})) };
    assert_eq!(stand.client.next().await, answer);
    assert!(matches!(stand.client.next().await, QmpIncoming::Event { name, .. } if name == "STOP"));
}

#[tokio::test]
async fn a_description_as_long_as_that_of_a_qemu_arrives_and_another_long_answer_does_not() {
    let mut stand = stand().await;
    let mut qemu = stand.accept().await;
    qemu.negotiate().await;
    assert_eq!(stand.client.next().await, QmpIncoming::Up(VERSION));
    let entry = json!({"name": "a", "ret-type": "x".repeat(200), "arg-type": "b"});
    for (entry, is_taken) in [(entry, true), (json!("x".repeat(200)), false)] {
        let id = stand.client.execute("query-qmp-schema", &json!({})).unwrap();
        assert_eq!(qemu.hear().await["id"], id);
        qemu.say(&json!({"return": vec![entry; 1300], "id": id}).to_string()).await;
        let QmpIncoming::Reply { result, .. } = stand.client.next().await else {
            panic!("an answer was said")
        };
        match result {
            Ok(schema) => {
                assert!(is_taken);
                assert_eq!(schema[1299], json!({"name": "a", "arg-type": "b"}));
            }
            Err(refusal) => {
                assert!(!is_taken);
                assert!(refusal.to_string().starts_with("an answer of 2"), "{refusal}");
            }
        }
    }
}

#[tokio::test]
async fn it_connects_again_and_forgets_what_was_not_sent() {
    let mut stand = stand().await;
    let mut qemu = stand.accept().await;
    qemu.negotiate().await;
    assert_eq!(stand.client.next().await, QmpIncoming::Up(VERSION));
    drop(qemu);
    assert!(matches!(stand.client.next().await, QmpIncoming::Down(_)));
    // To nobody.
    stand.client.execute("quit", &json!({})).unwrap();
    let mut qemu = stand.accept().await;
    qemu.negotiate().await;
    assert_eq!(stand.client.next().await, QmpIncoming::Up(VERSION));
    stand.client.execute("query-status", &json!({})).unwrap();
    assert_eq!(qemu.hear().await["execute"], "query-status");
}

#[tokio::test]
async fn a_line_without_end_ends_the_connection_and_the_next_one_works() {
    let mut stand = stand().await;
    let mut qemu = stand.accept().await;
    qemu.negotiate().await;
    assert_eq!(stand.client.next().await, QmpIncoming::Up(VERSION));
    let block = vec![b'x'; 1 << 20];
    // The client hangs up before it has taken much more than it may.
    while qemu.to.write_all(&block).await.is_ok() {}
    assert!(matches!(stand.client.next().await, QmpIncoming::Down(why) if why.contains("length")));
    stand.accept().await.negotiate().await;
    assert_eq!(stand.client.next().await, QmpIncoming::Up(VERSION));
}

#[tokio::test]
async fn a_qemu_that_takes_no_commands_is_bounded() {
    let mut stand = stand().await;
    let mut qemu = stand.accept().await;
    qemu.negotiate().await;
    assert_eq!(stand.client.next().await, QmpIncoming::Up(VERSION));
    // Nothing runs between two of these, so the channel only fills.
    let taken = (0..1000).filter(|_| stand.client.execute("stop", &json!({})).is_some()).count();
    assert_eq!(taken, WAITING_MAX);
}
