use std::process::Command;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};

use super::*;

fn address() -> IpAddr {
    "10.78.0.2".parse().unwrap()
}

#[test]
fn our_route_leads_where_the_other_did() {
    let to = address();
    let gateway = RouteAttribute::Gateway("10.0.0.1".parse::<IpAddr>().unwrap().into());
    let mut found = message(to);
    found.attributes.extend([RouteAttribute::Oif(7), RouteAttribute::Uid(0)]);
    let ours = like(&found, &found, to);
    assert_eq!((ours.header.scope, ours.header.destination_prefix_length), (RouteScope::Link, 32));
    assert_eq!(table_of(&ours), TABLE_MAIN);
    assert!(ours.attributes.contains(&RouteAttribute::Oif(7)));
    assert!(!ours.attributes.contains(&RouteAttribute::Uid(0)));
    assert!(ours.attributes.contains(&RouteAttribute::Metrics(vec![RouteMetric::QuickAck(1)])));
    found.attributes.extend([gateway.clone(), RouteAttribute::Table(1000)]);
    let ours = like(&found, &found, to);
    assert_eq!((ours.header.scope, table_of(&ours)), (RouteScope::Universe, 1000));
    assert!(ours.attributes.contains(&gateway));
}

#[test]
fn what_was_configured_for_the_way_stays_and_what_was_learned_does_not() {
    let to = address();
    let (mut used, mut configured) = (message(to), message(to));
    used.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(1280)]));
    let metrics = vec![RouteMetric::Mtu(9000), RouteMetric::QuickAck(0), RouteMetric::Advmss(1400)];
    configured.attributes.push(RouteAttribute::Metrics(metrics));
    let ours = like(&used, &configured, to);
    let expected = [RouteMetric::Mtu(9000), RouteMetric::Advmss(1400), RouteMetric::QuickAck(1)];
    assert_eq!(metrics_of(&ours).cloned().collect::<Vec<_>>(), expected);
}

#[test]
fn a_route_ends_with_the_last_of_its_users() {
    let mut users = Users(BTreeMap::new());
    let [main, other] = [TABLE_MAIN, 100].map(|table| Route { to: address(), table });
    assert!(!users.remove(main), "nobody used it");
    users.add(main);
    users.add(main);
    users.add(other);
    assert!(!users.remove(main));
    assert!(users.remove(other));
    assert!(users.remove(main));
    assert!(users.0.is_empty());
}

#[test]
fn one_that_is_not_wanted_does_nothing() {
    let mut off = QuickAck::new(false);
    off.start(Some("10.78.0.2".into()));
    assert_eq!(off.report(), QuickAckReport::Off);
    let mut unix = QuickAck::new(true);
    unix.start(None);
    assert_eq!(unix.report(), QuickAckReport::Idle { why: "the migration uses no TCP".into() });
}

#[test]
fn one_that_is_being_made_or_is_there_is_not_made_again() {
    let mut ack = QuickAck::new(true);
    let route = Route { to: address(), table: 100 };
    for state in [State::Pending, State::On(route)] {
        ack.set(state.clone());
        ack.host = Some("other".into());
        ack.start(Some("other".into()));
        assert_eq!((ack.now(), ack.making.is_none()), (state, true));
    }
    assert_eq!(ack.report(), on(Some(100)));
    ack.set(State::Off);
}

fn ip(arguments: &str) -> String {
    let done = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(done.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

fn on(table: Option<u32>) -> QuickAckReport {
    QuickAckReport::On { route: address(), table }
}

fn start(ack: &mut QuickAck) -> QuickAckReport {
    ack.start(Some("10.78.0.2".into()));
    ack.making.take().unwrap().join().unwrap();
    ack.report()
}

/// In a network namespace of its own, which the thread and those that it makes live in.
#[test]
fn in_a_kernel_it_is_made_shared_adopted_and_removed_and_others_are_left_alone() {
    let test = || {
        match unshare(CloneFlags::CLONE_NEWNET) {
            Err(Errno::EPERM) if std::env::var_os("COLO_PROXY_REQUIRE_ROOT").is_none() => return,
            done => done.unwrap(),
        }
        ip("link add d0 type veth peer name d1");
        ip("link set d1 up");
        ip("addr add 10.78.0.1/24 dev d0 noprefixroute");
        ip("link set d0 up");
        ip("route add 10.78.0.0/24 dev d0 src 10.78.0.1 mtu 1400");
        let ours = || ip("route show proto 206");
        let (mut one, mut two) = (QuickAck::new(true), QuickAck::new(true));
        assert_eq!(start(&mut one), on(None));
        assert!(ours().contains("mtu 1400") && ours().contains("quickack 1"), "{}", ours());
        assert_eq!(start(&mut two), on(None));
        drop(one);
        assert!(ours().contains("10.78.0.2"), "the other one uses it");
        drop(two);
        assert_eq!(ours(), "");
        // Left by one that was killed.
        ip("route add 10.78.0.2 dev d0 proto 206 quickack 1");
        let mut next = QuickAck::new(true);
        assert_eq!(start(&mut next), on(None));
        drop(next);
        assert_eq!(ours(), "");
        // An operator's.
        ip("route add 10.78.0.2 dev d0 mtu 1300");
        let mut none = QuickAck::new(true);
        let QuickAckReport::Failed { why } = start(&mut none) else { unreachable!("it failed") };
        assert!(why.contains("left alone"), "{why}");
        ip("route change 10.78.0.2 dev d0 mtu 1300 quickack 1");
        let idle = QuickAckReport::Idle { why: "the route there has quickack already".into() };
        assert_eq!(start(&mut none), idle);
        drop(none);
        assert!(ip("route show 10.78.0.2").contains("mtu 1300"));
        // The table that is asked.
        ip("route del 10.78.0.2");
        ip("rule add to 10.78.0.2 lookup 1000");
        ip("route add 10.78.0.0/24 dev d0 table 1000");
        let mut other = QuickAck::new(true);
        assert_eq!(start(&mut other), on(Some(1000)));
        assert!(ip("route get 10.78.0.2").contains("dev d0"));
        assert!(ip("route show table 1000").contains("quickack 1"));
        drop(other);
        assert!(!ip("route show table 1000").contains("quickack 1"));
    };
    thread::spawn(test).join().unwrap();
}
