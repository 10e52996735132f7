use std::sync::Arc;

use colo_proxy_engine::pair::Role;

use super::*;
use crate::endpoint::Port;
use crate::lane::control::LaneTraffic;

/// A long time, because nothing here is to time out.
const SILENCE_MAX: Duration = Duration::from_secs(20);

async fn end(endpoint: String, role: Role) -> ControlLane {
    let port = Port::open(endpoint.parse().expect("an endpoint")).await.expect("it opens");
    let traffic = LaneTraffic { sent: Arc::default(), received: Arc::default() };
    ControlLane::spawn(port, role, SILENCE_MAX, traffic, None)
}

/// Both ends of a control lane, connected, and the directory of the socket's file.
async fn lane() -> (ControlLane, ControlLane, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("control");
    let mut primary = end(format!("unix:{},server", path.display()), Role::Primary).await;
    let mut secondary = end(format!("unix:{}", path.display()), Role::Secondary).await;
    for lane in [&mut primary, &mut secondary] {
        assert_eq!(lane.next_event().await, Some(PeerEvent::Up { lane: None }));
    }
    (primary, secondary, dir)
}

/// The answer to the notice with a number.
type Answer = Box<dyn Fn(u32) -> Option<ControlMessage> + Send + Sync>;

/// A secondary that gives `answer` when it is told not to take over.
async fn answer_with(mut secondary: ControlLane, answer: Answer) {
    while let Some(event) = secondary.next_event().await {
        if let PeerEvent::Message(ControlMessage::Protection { protected: false, number, .. }) =
            event
            && let Some(answer) = answer(number)
        {
            assert!(secondary.send(answer));
        }
    }
}

/// The others are twins: the same message, and another end.
#[tokio::test]
async fn a_primary_that_ends_learns_whether_the_secondary_has_taken_over() {
    let obeys = |number| Some(ControlMessage::ProtectionKnown { number });
    let is_late = |number| Some(ControlMessage::ProtectionKnown { number: number - 1 });
    let serves = |generation| {
        move |_| Some(ControlMessage::Standing { generation, server: Some(Server::ThisHost) })
    };
    let answers: [(Answer, DisclaimEnd); 5] = [
        (Box::new(obeys), DisclaimEnd::Confirmed),
        (Box::new(serves(5)), DisclaimEnd::TakenOver),
        (Box::new(serves(4)), DisclaimEnd::Unconfirmed),
        (Box::new(is_late), DisclaimEnd::Unconfirmed),
        (Box::new(|_| None), DisclaimEnd::Unconfirmed),
    ];
    for (answer, expected) in answers {
        let (mut primary, secondary, _dir) = lane().await;
        let peer = tokio::spawn(answer_with(secondary, answer));
        assert_eq!(disclaim(&mut primary, (3, 5)).await, expected);
        peer.abort();
    }
}
