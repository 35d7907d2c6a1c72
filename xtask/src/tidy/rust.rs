// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Which paths (`a::b::c`) a Rust file names, outside comments, strings and test-only items.
//!
//! A scanner and no parser: it reads `use` trees whole and every other path as it stands. It can be fooled by
//! renaming a crate on purpose, which review sees; it is here to catch what happens by habit.

/// A path that the file names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) line: usize,
    pub(super) segments: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Word(String),
    PathSeparator,
    Symbol(char),
}

#[derive(Debug, Clone)]
struct Token {
    line: usize,
    kind: Kind,
}

impl Token {
    fn word(&self) -> Option<&str> {
        match &self.kind {
            Kind::Word(word) => Some(word),
            Kind::PathSeparator | Kind::Symbol(_) => None,
        }
    }

    fn is(&self, symbol: char) -> bool {
        self.kind == Kind::Symbol(symbol)
    }
}

/// All paths in the order of the text, `use` trees spelled out. Single words that are no `use` are left out.
pub(super) fn paths(text: &str) -> Vec<Named> {
    let tokens = without_tests(tokens(text));
    let mut reader = Reader { tokens: &tokens, at: 0, found: Vec::new() };
    reader.read();
    reader.found
}

struct Reader<'a> {
    tokens: &'a [Token],
    at: usize,
    found: Vec<Named>,
}

impl Reader<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn next_is(&self, kind: &Kind) -> bool {
        self.peek().is_some_and(|token| token.kind == *kind)
    }

    fn read(&mut self) {
        while let Some(token) = self.peek() {
            let (line, word) = (token.line, token.word().map(str::to_owned));
            self.at += 1;
            match word.as_deref() {
                // `use<'a>` is a bound, not an import.
                Some("use") if !self.next_is(&Kind::Symbol('<')) => self.tree(&[], 0),
                Some("crate") if !self.next_is(&Kind::PathSeparator) => {
                    // `extern crate x`; in `pub(crate)` a bracket follows.
                    if let Some(name) = self.peek().and_then(Token::word) {
                        self.found.push(Named { line, segments: vec![name.to_owned()] });
                    }
                }
                Some(first) => self.path(line, first.to_owned()),
                None => {}
            }
        }
    }

    /// A path in an expression, a type or an attribute; a single word is none.
    fn path(&mut self, line: usize, first: String) {
        let mut segments = vec![first];
        while self.next_is(&Kind::PathSeparator) {
            let Some(word) = self.tokens.get(self.at + 1).and_then(Token::word) else { break };
            segments.push(word.to_owned());
            self.at += 2;
        }
        if segments.len() > 1 {
            self.found.push(Named { line, segments });
        }
    }

    /// One branch of a `use` tree after `prefix`.
    fn tree(&mut self, prefix: &[String], depth: usize) {
        // Deeper than anybody writes; bounds the recursion.
        if depth > 32 {
            return;
        }
        let mut segments = prefix.to_vec();
        while let Some(token) = self.peek() {
            let line = token.line;
            match &token.kind {
                Kind::PathSeparator => self.at += 1,
                Kind::Word(word) if word == "as" => self.at += 2,
                Kind::Word(word) => {
                    segments.push(word.clone());
                    self.at += 1;
                    if !self.next_is(&Kind::PathSeparator) {
                        self.found.push(Named { line, segments: segments.clone() });
                    }
                }
                Kind::Symbol('{') => {
                    self.at += 1;
                    while self.peek().is_some_and(|token| !token.is('}')) {
                        let before = self.at;
                        self.tree(&segments, depth + 1);
                        if self.next_is(&Kind::Symbol(',')) || self.at == before {
                            self.at += 1;
                        }
                    }
                    self.at += 1;
                    return;
                }
                Kind::Symbol('*') => {
                    segments.push("*".into());
                    self.found.push(Named { line, segments });
                    self.at += 1;
                    return;
                }
                Kind::Symbol(_) => return,
            }
        }
    }
}

/// Leaves out every item under `#[cfg(…test…)]`.
fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    let mut kept = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let is_attribute = token.is('#') && tokens.get(at + 1).is_some_and(|next| next.is('['));
        if is_attribute {
            let end = after_brackets(&tokens, at + 1);
            let words: Vec<&str> = tokens.get(at..end).unwrap_or_default().iter().filter_map(Token::word).collect();
            if words.first() == Some(&"cfg") && words.contains(&"test") && !words.contains(&"not") {
                at = after_item(&tokens, end);
                continue;
            }
        }
        kept.push(token.clone());
        at += 1;
    }
    kept
}

/// The place after the bracket that closes the one at `at`.
fn after_brackets(tokens: &[Token], mut at: usize) -> usize {
    let mut depth = 0_usize;
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token.kind {
            Kind::Symbol('(' | '[' | '{') => depth += 1,
            Kind::Symbol(')' | ']' | '}') => depth = depth.saturating_sub(1),
            Kind::Word(_) | Kind::PathSeparator | Kind::Symbol(_) => {}
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// The place after the item that starts at `at`: after its block, or after its semicolon.
fn after_item(tokens: &[Token], mut at: usize) -> usize {
    let is_use = tokens.get(at..).unwrap_or_default().iter().find_map(Token::word) == Some("use");
    while let Some(token) = tokens.get(at) {
        match token.kind {
            Kind::Symbol('{') if !is_use => return after_brackets(tokens, at),
            Kind::Symbol('(' | '[' | '{') => at = after_brackets(tokens, at),
            Kind::Symbol(';' | ',' | '}') => return at + 1,
            Kind::Word(_) | Kind::PathSeparator | Kind::Symbol(_) => at += 1,
        }
    }
    at
}

fn tokens(text: &str) -> Vec<Token> {
    let mut scanner = Scanner { rest: text, line: 1 };
    let mut tokens = Vec::new();
    while let Some(character) = scanner.rest.chars().next() {
        let line = scanner.line;
        if scanner.skip_quiet(character) {
            continue;
        }
        let kind = if is_word(character) {
            Kind::Word(scanner.take_while(is_word).to_owned())
        } else if scanner.rest.starts_with("::") {
            scanner.advance(2);
            Kind::PathSeparator
        } else {
            scanner.advance(character.len_utf8());
            Kind::Symbol(character)
        };
        tokens.push(Token { line, kind });
    }
    tokens
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

struct Scanner<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Scanner<'a> {
    fn advance(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at_checked(bytes).unwrap_or((self.rest, ""));
        self.line += taken.matches('\n').count();
        self.rest = rest;
        taken
    }

    fn take_while(&mut self, fits: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|character| !fits(character)).unwrap_or(self.rest.len());
        self.advance(end)
    }

    /// Steps over white space, a comment, a string, a character or a lifetime.
    fn skip_quiet(&mut self, character: char) -> bool {
        if character.is_whitespace() {
            self.take_while(char::is_whitespace);
        } else if self.rest.starts_with("//") {
            self.take_while(|character| character != '\n');
        } else if self.rest.starts_with("/*") {
            self.block_comment();
        } else if let Some(hashes) = self.raw_string() {
            let close = format!("\"{}", "#".repeat(hashes));
            let opened = self.rest.find('"').map_or(self.rest.len(), |quote| quote + 1);
            self.advance(opened);
            let end = self.rest.find(&close).map_or(self.rest.len(), |end| end + close.len());
            self.advance(end);
        } else if character == '"' || self.rest.starts_with("b\"") || self.rest.starts_with("c\"") {
            self.take_while(|character| character != '"');
            self.quoted('"');
        } else if character == '\'' {
            self.character_or_lifetime();
        } else {
            return false;
        }
        true
    }

    fn block_comment(&mut self) {
        let mut depth = 0_usize;
        while !self.rest.is_empty() {
            if self.rest.starts_with("/*") {
                depth += 1;
                self.advance(2);
            } else if self.rest.starts_with("*/") {
                depth = depth.saturating_sub(1);
                self.advance(2);
                if depth == 0 {
                    return;
                }
            } else {
                self.advance(self.rest.chars().next().map_or(1, char::len_utf8));
            }
        }
    }

    /// The number of hashes if a raw string starts here.
    fn raw_string(&self) -> Option<usize> {
        let rest = ["br", "cr", "r"].iter().find_map(|prefix| self.rest.strip_prefix(prefix))?;
        let after = rest.trim_start_matches('#');
        after.starts_with('"').then(|| rest.len() - after.len())
    }

    /// From the opening quote to after the closing one.
    fn quoted(&mut self, quote: char) {
        self.advance(1);
        while let Some(character) = self.rest.chars().next() {
            self.advance(character.len_utf8());
            if character == '\\' {
                self.advance(self.rest.chars().next().map_or(1, char::len_utf8));
            } else if character == quote {
                return;
            }
        }
    }

    fn character_or_lifetime(&mut self) {
        let mut following = self.rest.chars().skip(1);
        let (first, second) = (following.next(), following.next());
        if first == Some('\\') || second == Some('\'') {
            self.quoted('\'');
        } else {
            self.advance(1);
            self.take_while(is_word);
        }
    }
}
