use super::*;

/// Otherwise a querier that has lost its connection would stay without answers for ever.
#[test]
fn a_querier_without_answers_is_replaced() {
    let (mut querier, mut made) = (None, 0);
    let mut round = |links: &[(u32, LinkAnswer)]| {
        let make = || {
            made += 1;
            Ok::<_, ()>(made)
        };
        let (answer, _) = ask(&mut querier, make, |_| links.to_vec());
        (answer.is_some(), made)
    };
    let known = [(1, LinkAnswer::Gone), (2, LinkAnswer::Unanswered)];
    assert_eq!(round(&known), (true, 1));
    assert_eq!(round(&known), (true, 1));
    assert_eq!(round(&tunnel::unanswered(&[1, 2])), (false, 1));
    assert_eq!(round(&known), (true, 2), "another querier");
    assert_eq!(round(&[]), (false, 2));
    assert_eq!(ask(&mut None::<u32>, || Err("no socket"), |_| vec![]), (None, Some("no socket")));
}
