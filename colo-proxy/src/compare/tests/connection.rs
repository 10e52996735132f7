//! TCP, rule by rule.

use super::packet::tcp;
use super::rig::Rig;

#[test]
fn equal_data_leaves_whichever_guest_is_first() {
    let mut rig = Rig::new();
    rig.accept(&tcp(0), 1000, 500);
    let first = tcp(1001).ack(501).data(b"hello");
    rig.holds(&first);
    rig.frees(&first.clone().salt(1), &[&first]);
    let second = tcp(1006).ack(501).data(b"world");
    rig.is_kept(&second.clone().salt(1));
    rig.passes(&second);
}

/// The secondary lost what the primary got: the peer must be told which segment to repeat.
#[test]
fn a_peer_is_told_what_both_have_received_and_no_more() {
    let mut rig = Rig::new();
    rig.accept(&tcp(0), 1000, 500);
    let all = tcp(1001).ack(5000);
    rig.holds(&all);
    assert_eq!(rig.acknowledged(&tcp(1001).ack(3000).salt(1)), [3000]);
    assert_eq!(rig.acknowledged(&tcp(1001).ack(3000).salt(2)), [0u32; 0], "once is enough");
    assert_eq!(rig.acknowledged(&tcp(1001).ack(2000).salt(3)), [0u32; 0], "never less");
    assert_eq!(rig.acknowledged(&tcp(1001).ack(4000).salt(4)), [4000]);
    rig.frees(&tcp(1001).ack(5000).salt(5), &[&all]);
    assert_eq!(rig.acknowledged(&tcp(1001).ack(6000).salt(6)), [0u32; 0], "nor what the primary lacks");
}

/// Where the primary has said just that, or nothing waits, its own frames do.
#[test]
fn guests_that_acknowledge_alike_need_no_words_of_ours() {
    let mut rig = Rig::new();
    rig.accept(&tcp(0), 1000, 500);
    rig.holds(&tcp(1001).ack(3000));
    rig.holds(&tcp(1001).ack(5000));
    assert_eq!(rig.acknowledged(&tcp(1001).ack(3000).salt(1)), [0u32; 0]);
    assert_eq!(rig.acknowledged(&tcp(1001).ack(5000).salt(1)), [0u32; 0]);
}
