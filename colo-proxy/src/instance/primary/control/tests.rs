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

/// A secondary that gives `answer` when it is told not to take over.
async fn answer_with(mut secondary: ControlLane, answer: ControlMessage) {
    let told = ControlMessage::Protection { protected: false };
    while let Some(event) = secondary.next_event().await {
        if event == PeerEvent::Message(told.clone()) {
            assert!(secondary.send(answer.clone()));
        }
    }
}

/// The second answer is the twin: the same message, and another end.
#[tokio::test]
async fn a_primary_that_ends_learns_whether_the_secondary_has_taken_over() {
    let obeys = ControlMessage::ProtectionKnown { protected: false };
    for (answer, expected) in
        [(ControlMessage::TookOver, DisclaimEnd::TakenOver), (obeys, DisclaimEnd::GoesOn)]
    {
        let (mut primary, secondary, _dir) = lane().await;
        let peer = tokio::spawn(answer_with(secondary, answer));
        assert_eq!(disclaim("tap0", &mut primary).await, expected);
        peer.abort();
    }
}
