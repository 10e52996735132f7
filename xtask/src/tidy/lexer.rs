//! Rust source as lines of code and lines of comment, with the contents of literals blanked.
//!
//! Knows what can hide a word: line and nested block comments, strings, raw strings, characters.

/// One line of a source file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SourceLine {
    /// The code, without comments; the inside of a literal is blank.
    pub code: String,
    /// The text of the comments, with their marks.
    pub comment: String,
    /// The inside of the strings, without escapes; a blank stands between two of them.
    pub strings: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Code,
    LineComment,
    /// How many block comments are open.
    BlockComment(usize),
    String,
    /// How many `#` end it.
    RawString(usize),
}

/// Takes `text` apart.
pub(super) fn lines(text: &str) -> Vec<SourceLine> {
    let mut state = State::Code;
    let mut found = Vec::new();
    for line in text.lines() {
        let chars: Vec<char> = line.chars().collect();
        let mut out = SourceLine::default();
        let mut at = 0;
        while at < chars.len() {
            let (next, taken) = step(state, &chars, at, &mut out);
            state = next;
            at += taken;
        }
        if state == State::LineComment {
            state = State::Code;
        }
        found.push(out);
    }
    found
}

/// Handles what stands at `at`; returns the state behind it and how many characters it took.
fn step(state: State, chars: &[char], at: usize, out: &mut SourceLine) -> (State, usize) {
    let pair = |a: char, b: char| chars.get(at) == Some(&a) && chars.get(at + 1) == Some(&b);
    let comment =
        |out: &mut SourceLine, len: usize| out.comment.extend(chars.iter().skip(at).take(len));
    match state {
        State::Code => code(chars, at, out),
        State::BlockComment(depth) if pair('/', '*') => {
            comment(out, 2);
            (State::BlockComment(depth + 1), 2)
        }
        State::BlockComment(depth) if pair('*', '/') => {
            comment(out, 2);
            (if depth == 1 { State::Code } else { State::BlockComment(depth - 1) }, 2)
        }
        State::LineComment | State::BlockComment(_) => {
            comment(out, 1);
            (state, 1)
        }
        State::String if chars.get(at) == Some(&'\\') => (state, 2),
        State::String if chars.get(at) == Some(&'"') => (end_string(out), 1),
        State::RawString(hashes) if ends_raw(chars, at, hashes) => (end_string(out), 1 + hashes),
        State::String | State::RawString(_) => {
            out.strings.extend(chars.get(at));
            (state, 1)
        }
    }
}

fn end_string(out: &mut SourceLine) -> State {
    out.code.push('"');
    out.strings.push(' ');
    State::Code
}

/// The same, in code.
fn code(chars: &[char], at: usize, out: &mut SourceLine) -> (State, usize) {
    let here = |offset: usize| chars.get(at + offset).copied();
    match (here(0), here(1)) {
        (Some('/'), Some('/')) => (State::LineComment, 0),
        (Some('/'), Some('*')) => {
            out.comment.push_str("/*");
            (State::BlockComment(1), 2)
        }
        (Some('"'), _) => {
            out.code.push('"');
            (State::String, 1)
        }
        (Some('r'), Some('"' | '#')) if !continues_word(chars, at) => {
            let hashes = chars.iter().skip(at + 1).take_while(|c| **c == '#').count();
            if here(1 + hashes) == Some('"') {
                out.code.push('"');
                return (State::RawString(hashes), 2 + hashes);
            }
            out.code.push('r');
            (State::Code, 1)
        }
        // A character, as against a lifetime: its closing quote is in reach.
        (Some('\''), Some('\\')) => {
            let len = chars.iter().skip(at + 3).position(|c| *c == '\'').map_or(2, |end| end + 4);
            out.code.push_str("' '");
            (State::Code, len)
        }
        (Some('\''), Some(_)) if here(2) == Some('\'') => {
            out.code.push_str("' '");
            (State::Code, 3)
        }
        (Some(c), _) => {
            out.code.push(c);
            (State::Code, 1)
        }
        (None, _) => (State::Code, 1),
    }
}

fn ends_raw(chars: &[char], at: usize, hashes: usize) -> bool {
    chars.get(at) == Some(&'"')
        && chars.iter().skip(at + 1).take(hashes).filter(|c| **c == '#').count() == hashes
}

/// The character before `at` belongs to the same word, unless that word is the `b` of `br"..."`.
fn continues_word(chars: &[char], at: usize) -> bool {
    let before = |offset: usize| at.checked_sub(offset).and_then(|i| chars.get(i)).copied();
    let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let is_byte_string = before(1) == Some('b') && !is_word(before(2));
    is_word(before(1)) && !is_byte_string
}
