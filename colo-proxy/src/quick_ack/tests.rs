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
    for state in [QuickAckState::Pending, QuickAckState::On(route)] {
        ack.set(state.clone());
        ack.host = Some("other".into());
        ack.start(Some("other".into()));
        assert_eq!((ack.now(), ack.making.is_none()), (state, true));
    }
    let on = QuickAckReport::On { route: address(), table: Some(100) };
    assert_eq!(ack.report(), on);
    ack.set(QuickAckState::Off);
}
