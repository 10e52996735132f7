use super::*;

fn record(generation: u64, server: Server) -> ServiceRecord {
    ServiceRecord::new(generation, server)
}

#[test]
fn a_record_reads_back_and_is_a_line_that_people_can_read() {
    let line = r#"{"version":1,"role":"primary","generation":3,"server":"either"}"#;
    assert_eq!(record(3, Server::Either).text(Role::Primary).trim_end(), line);
    for server in [Server::ThisHost, Server::Either, Server::OtherHost] {
        let kept = record(u64::MAX, server);
        let read = ServiceRecord::parse(&kept.text(Role::Secondary)).unwrap();
        assert_eq!(read, (Role::Secondary, kept));
    }
}

#[test]
fn a_host_that_has_started_again_does_not_take_its_new_guest_for_the_old_one() {
    let either = record(3, Server::Either);
    let primary = either.of_a_new_guest(Role::Primary);
    assert_eq!((primary.server, primary.guest_is_new), (Server::Either, true));
    let text = primary.text(Role::Primary);
    assert_eq!(ServiceRecord::parse(&text).unwrap(), (Role::Primary, primary));
    assert_eq!(either.of_a_new_guest(Role::Secondary), record(3, Server::OtherHost));
    for server in [Server::ThisHost, Server::OtherHost] {
        for role in [Role::Primary, Role::Secondary] {
            assert_eq!(record(3, server).of_a_new_guest(role), record(3, server));
        }
    }
}

#[test]
fn a_text_that_is_no_record_is_refused_with_its_cause() {
    let later = r#"{"version":2,"role":"primary","generation":3,"server":"either"}"#;
    assert!(matches!(ServiceRecord::parse(later), Err(RecordError::Version(2))));
    for text in [
        "",
        "{",
        r#"{"version":1}"#,
        r#"{"version":1,"generation":1,"server":"either"}"#,
        r#"{"version":1,"role":"primary","generation":-1,"server":"either"}"#,
        r#"{"version":1,"role":"primary","generation":1,"server":"nobody"}"#,
    ] {
        assert!(matches!(ServiceRecord::parse(text), Err(RecordError::Syntax(_))), "{text}");
    }
}

#[test]
fn a_record_counts_when_it_is_on_the_disk_and_not_before() {
    let mut keeper = RecordKeeper::new(None);
    assert!(keeper.is_kept(), "no record is a state too");
    keeper.want(1, Server::Either);
    assert!(!keeper.is_kept());
    assert_eq!(keeper.next_write(), Some(record(1, Server::Either)));
    assert_eq!(keeper.next_write(), None, "one write at a time");
    assert!(!keeper.is_kept());
    keeper.on_written(true);
    assert!(keeper.is_kept());
    keeper.want(1, Server::Either);
    assert_eq!((keeper.next_write(), keeper.is_kept()), (None, true));
}

/// Until the write has ended, nobody knows which record the disk has.
#[test]
fn a_record_that_is_wanted_back_during_a_write_is_not_kept_yet() {
    let mut keeper = RecordKeeper::new(Some(record(1, Server::Either)));
    keeper.want(2, Server::ThisHost);
    keeper.next_write();
    keeper.want(1, Server::Either);
    assert!(!keeper.is_kept());
    keeper.on_written(true);
    assert!(!keeper.is_kept(), "the disk has the other one");
    assert_eq!(keeper.next_write(), Some(record(1, Server::Either)));
    keeper.on_written(true);
    assert!(keeper.is_kept());
}

#[test]
fn a_write_that_failed_is_tried_again_when_asked_or_for_another_record() {
    let mut keeper = RecordKeeper::new(None);
    keeper.want(1, Server::ThisHost);
    keeper.next_write();
    keeper.on_written(false);
    assert!(keeper.has_failed() && !keeper.is_kept());
    assert_eq!(keeper.next_write(), None, "not at once");
    keeper.retry();
    assert!(keeper.next_write().is_some());
    keeper.on_written(false);
    keeper.want(2, Server::OtherHost);
    assert_eq!(keeper.next_write(), Some(record(2, Server::OtherHost)));
}

#[test]
fn without_a_disk_a_record_counts_at_once() {
    let mut keeper = RecordKeeper::in_memory();
    keeper.want(1, Server::Either);
    assert_eq!((keeper.is_kept(), keeper.next_write()), (true, None));
}
