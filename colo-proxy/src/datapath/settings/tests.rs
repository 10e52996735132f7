use super::*;

#[test]
fn marks_are_of_the_range_that_the_readme_names() {
    for _ in 0..1000 {
        let mark = random_mark();
        assert_eq!(mark >> 24, 0xc1);
        assert!(!is_token(mark));
    }
}
