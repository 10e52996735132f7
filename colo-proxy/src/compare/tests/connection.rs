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
