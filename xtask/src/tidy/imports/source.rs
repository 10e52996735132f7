//! The paths that a source file names, read from its tokens: tests are left out.

use super::super::lexer;

/// A path in the code, or in a `use`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NamedPath {
    pub(super) parts: Vec<String>,
    /// From 1.
    pub(super) line: usize,
    /// The modules inside the file that it is in.
    pub(super) within: Vec<String>,
    /// The name that a `use` gives it; `None` for a path in the code, and for `*`.
    pub(super) alias: Option<String>,
}

/// A source file, as far as imports are concerned.
#[derive(Debug, Default)]
pub(super) struct Source {
    pub(super) paths: Vec<NamedPath>,
    /// Modules with a file of their own that only tests have.
    pub(super) test_modules: Vec<String>,
    /// Modules that are written out in the file, with those around them.
    pub(super) inline_modules: Vec<Vec<String>>,
}

pub(super) fn read(text: &str) -> Source {
    let mut reader =
        UseReader { tokens: tokens(text), at: 0, scopes: Vec::new(), found: Source::default() };
    while reader.step() {}
    reader.found
}

struct Token {
    text: String,
    line: usize,
}

/// Words, `::`, and all other characters one by one.
fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    for (i, line) in lexer::lines(text).iter().enumerate() {
        let mut rest = line.code.trim_start();
        while let Some(first) = rest.chars().next() {
            let len = if is_word(first) {
                rest.find(|c| !is_word(c)).unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            let (token, behind) = rest.split_at(len);
            tokens.push(Token { text: token.to_owned(), line: i + 1 });
            rest = behind.trim_start();
        }
    }
    tokens
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

struct UseReader {
    tokens: Vec<Token>,
    at: usize,
    /// The open braces: the name of a module, or nothing.
    scopes: Vec<Option<String>>,
    found: Source,
}

impl UseReader {
    fn text(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| &token.text)
    }

    /// Whether a word stands at `at`.
    fn has_word(&self, at: usize) -> bool {
        self.text(at).starts_with(is_word)
    }

    /// Handles what stands here; `false` at the end.
    fn step(&mut self) -> bool {
        if self.at >= self.tokens.len() {
            return false;
        }
        match self.text(self.at) {
            "#" => self.attribute(),
            "{" => self.open(None, 1),
            "}" => {
                self.scopes.pop();
                self.at += 1;
            }
            "mod" if self.text(self.at + 2) == "{" => {
                let name = self.text(self.at + 1).to_owned();
                self.open(Some(name), 3);
                let within = self.within();
                self.found.inline_modules.push(within);
            }
            // Not the `use<'a>` of a return type.
            "use" if self.has_word(self.at + 1) || self.text(self.at + 1) == "::" => {
                self.at += 1;
                self.use_tree(Vec::new());
            }
            _ if self.has_word(self.at) && self.text(self.at + 1) == "::" => self.path(),
            _ => self.at += 1,
        }
        true
    }

    fn open(&mut self, module: Option<String>, tokens: usize) {
        self.scopes.push(module);
        self.at += tokens;
    }

    fn within(&self) -> Vec<String> {
        self.scopes.iter().flatten().cloned().collect()
    }

    /// Passes an attribute, and with `#[cfg(test)]` the item behind it.
    fn attribute(&mut self) {
        let start = self.at;
        self.at += 1;
        self.pass_group();
        let words: Vec<&str> = (start..self.at).map(|at| self.text(at)).collect();
        let is_test = words.contains(&"cfg") && words.contains(&"test") && !words.contains(&"not");
        if is_test {
            self.test_item();
        }
    }

    /// To behind the group of brackets that begins here or behind a `!`.
    fn pass_group(&mut self) {
        let mut depth = 0_usize;
        while self.at < self.tokens.len() {
            match self.text(self.at) {
                "[" | "(" | "{" => depth += 1,
                "]" | ")" | "}" => depth = depth.saturating_sub(1),
                _ => {}
            }
            let is_over = depth == 0 && self.text(self.at) != "!";
            self.at += 1;
            if is_over {
                break;
            }
        }
    }

    /// To the end of an item: its `;`, or the brace that closes its body or what it is in.
    fn test_item(&mut self) {
        while self.at < self.tokens.len() {
            match self.text(self.at) {
                "mod" if self.text(self.at + 2) == ";" => {
                    let name = self.text(self.at + 1).to_owned();
                    self.found.test_modules.push(name);
                }
                "[" | "(" => {
                    self.pass_group();
                    continue;
                }
                "{" => return self.pass_group(),
                ";" => {
                    self.at += 1;
                    return;
                }
                "}" => return,
                _ => {}
            }
            self.at += 1;
        }
    }

    /// A path outside of a `use`. That of `pub(in path)` imports nothing.
    fn path(&mut self) {
        let is_visibility = self.at > 0
            && self.text(self.at - 1) == "in"
            && self.at > 1
            && self.text(self.at - 2) == "(";
        let line = self.line();
        let mut parts = vec![self.text(self.at).to_owned()];
        while self.text(self.at + 1) == "::" && self.has_word(self.at + 2) {
            self.at += 2;
            parts.push(self.text(self.at).to_owned());
        }
        self.at += 1;
        if self.text(self.at) == "::" {
            self.at += 1;
        }
        if !is_visibility {
            let within = self.within();
            self.found.paths.push(NamedPath { parts, line, within, alias: None });
        }
    }

    fn line(&self) -> usize {
        self.tokens.get(self.at).map_or(0, |token| token.line)
    }

    /// A tree of a `use` that goes on from `prefix`, to behind its end.
    fn use_tree(&mut self, prefix: Vec<String>) {
        let mut parts = prefix;
        loop {
            match self.text(self.at) {
                "::" => self.at += 1,
                "{" => {
                    self.at += 1;
                    while !matches!(self.text(self.at), "}" | "") {
                        self.use_tree(parts.clone());
                        if self.text(self.at) == "," {
                            self.at += 1;
                        }
                    }
                    self.at += 1;
                    return;
                }
                "*" => {
                    parts.push("*".to_owned());
                    self.imported(parts, None);
                    self.at += 1;
                    return;
                }
                word if word.starts_with(is_word) => {
                    parts.push(word.to_owned());
                    self.at += 1;
                    if self.text(self.at) != "::" {
                        return self.use_end(parts);
                    }
                }
                _ => return,
            }
        }
    }

    /// The last part of a path in a `use`, with the name that it gets.
    fn use_end(&mut self, mut parts: Vec<String>) {
        if parts.len() > 1 && parts.last().is_some_and(|part| part == "self") {
            parts.pop();
        }
        let mut alias = parts.last().cloned();
        if self.text(self.at) == "as" {
            alias = Some(self.text(self.at + 1).to_owned());
            self.at += 2;
        }
        self.imported(parts, alias);
    }

    fn imported(&mut self, parts: Vec<String>, alias: Option<String>) {
        let (line, within) = (self.line(), self.within());
        self.found.paths.push(NamedPath { parts, line, within, alias });
    }
}
