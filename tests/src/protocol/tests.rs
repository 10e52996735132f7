use super::{
    Pattern, RequestKind, ServiceCall, ServiceRequest, Transcript, read_pattern, write_pattern,
};

#[test]
fn a_request_survives_the_wire() {
    let request = ServiceRequest { kind: RequestKind::Up, count: 1 << 33 };
    assert_eq!(ServiceRequest::decode(request.encode()), Some(request));
    assert_eq!(ServiceRequest::decode([9; 16]), None);
}

#[test]
fn an_answer_too_large_to_hold_is_refused() {
    assert_eq!(
        ServiceRequest::decode(ServiceRequest { kind: RequestKind::Ask, count: 1 << 33 }.encode()),
        None
    );
}

#[test]
fn a_call_survives_the_wire() {
    for to in ["10.77.0.1:9000", "[fd77::1]:9000"] {
        let call = ServiceCall { from_port: 40000, to: to.parse().expect("an address") };
        assert_eq!(ServiceCall::decode(&call.encode()), Some(call));
    }
    assert_eq!(ServiceCall::decode("call 1"), None);
}

#[test]
fn a_wrong_byte_in_a_pattern_is_found_where_it_is() {
    let mut wire = Vec::new();
    write_pattern(&mut wire, 5, 200_003, |_| {}).expect("memory does not fail");
    assert_eq!(read_pattern(&mut wire.as_slice(), 5, 200_003, |_| {}).expect("all there").count, 0);
    wire[131_075] ^= 1;
    let found = read_pattern(&mut wire.as_slice(), 5, 200_003, |_| {}).expect("all there");
    assert_eq!((found.count, found.first_at), (1, 131_075));
}

#[test]
fn patterns_of_two_seeds_differ() {
    let (mut one, mut two) = ([0; 64], [0; 64]);
    Pattern::new(1).fill(&mut one);
    Pattern::new(2).fill(&mut two);
    assert_ne!(one, two);
}

#[test]
fn a_transcript_depends_on_every_byte() {
    let (mut one, mut two) = (Transcript::default(), Transcript::default());
    one.block(b"twelve bytes");
    two.block(b"twelve bytez");
    assert_ne!(one.hash, two.hash);
}
