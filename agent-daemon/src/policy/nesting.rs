// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Refuses texts so deeply nested that reading them would overflow the stack.
//!
//! Cedar reads, validates and frees expressions by recursion without a limit of its own: a few hundred brackets, or a
//! thousand conditions joined by `||`, end the process. This looks at brackets and operators only and estimates from
//! above how deep the tree becomes; what is wrong otherwise is Cedar's to say.

/// Deepest expression, in steps of one operator. A third of what a thread of 2 MiB survived in an unoptimised build.
const MAX_DEPTH: usize = 256;
/// A bracket passes through the whole grammar and costs as much stack as this many operators.
const BRACKET: usize = 6;

/// What is known of an open bracket; the first one is the text itself.
#[derive(Default)]
struct Group {
    // Of the part since the last comma or semicolon.
    operators: usize,
    members: usize,
    longest_members: usize,
    inner: usize,
    // Of the parts before.
    deepest: usize,
}

impl Group {
    /// An operator can stand above all operators of its part and above the deepest bracket in it.
    fn depth(&self) -> usize {
        self.operators.saturating_add(self.longest_members).saturating_add(self.inner)
    }

    fn operator(&mut self) {
        self.operators = self.operators.saturating_add(1);
        self.members = 0;
    }

    fn member(&mut self) {
        self.members = self.members.saturating_add(1);
        self.longest_members = self.longest_members.max(self.members);
    }

    fn separate(&mut self) {
        *self = Self { deepest: self.deepest.max(self.depth()), ..Self::default() };
    }
}

/// The byte offset at which it becomes too deep.
pub(super) fn too_deep(text: &str) -> Option<usize> {
    let mut groups = vec![Group::default()];
    // The depth of everything around the current bracket, so that the sum is not made anew at each step.
    let mut around: usize = 0;
    let mut characters = text.char_indices().peekable();
    while let Some((offset, character)) = characters.next() {
        let group = groups.last_mut()?;
        match character {
            '"' => {
                while let Some((_, inside)) = characters.next() {
                    match inside {
                        '"' => break,
                        '\\' => drop(characters.next()),
                        _ => {}
                    }
                }
            }
            '/' if characters.peek().is_some_and(|(_, next)| *next == '/') => {
                while characters.next_if(|(_, inside)| !matches!(inside, '\n' | '\r')).is_some() {}
            }
            '(' | '[' | '{' => {
                around = around.saturating_add(group.depth()).saturating_add(BRACKET);
                groups.push(Group::default());
            }
            ')' | ']' | '}' => {
                // Too many closing brackets are a syntax error, which is not for here to report.
                if groups.len() > 1
                    && let Some(mut closed) = groups.pop()
                {
                    closed.separate();
                    let open = groups.last_mut()?;
                    around = around.saturating_sub(open.depth().saturating_add(BRACKET));
                    open.inner = open.inner.max(closed.deepest.saturating_add(BRACKET));
                    if character == '}' && groups.len() == 1 {
                        // The end of a condition: the next one stands beside it.
                        groups.last_mut()?.operator();
                    }
                }
            }
            '|' | '&' => {
                characters.next_if(|(_, next)| *next == character);
                group.operator();
            }
            '+' | '-' | '*' | '!' => group.operator(),
            '=' | '<' | '>' => group.members = 0,
            '.' => group.member(),
            ',' | ';' => group.separate(),
            _ if character == '_' || character.is_alphabetic() => {
                let mut word = String::from(character);
                while let Some((_, next)) = characters.next_if(|(_, next)| *next == '_' || next.is_alphanumeric()) {
                    word.push(next);
                }
                if word == "if" {
                    group.operator();
                }
            }
            _ => {}
        }
        let group = groups.last()?;
        if around.saturating_add(group.depth().max(group.deepest)) > MAX_DEPTH {
            return Some(offset);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_bounded_whatever_makes_it() {
        let bracket = MAX_DEPTH / BRACKET;
        for (open, close, limit) in [
            ("(", ")", bracket),
            ("[", "]", bracket),
            ("{a: ", "}", bracket),
            ("true || ", "", MAX_DEPTH),
            ("true && ", "", MAX_DEPTH),
            ("1+", "", MAX_DEPTH),
            ("1 * ", "", MAX_DEPTH),
            ("", ".a", MAX_DEPTH),
            ("if a then ", " else b", MAX_DEPTH),
            ("if a then b else ", "", MAX_DEPTH),
            ("!", "", MAX_DEPTH),
            ("x || (", ")", MAX_DEPTH / (BRACKET + 1)),
            ("(", ") || x", MAX_DEPTH / (BRACKET + 1)),
        ] {
            let text = |depth: usize| format!("{}x{}", open.repeat(depth), close.repeat(depth));
            assert_eq!(too_deep(&text(limit)), None, "{open} {close}");
            assert!(too_deep(&text(limit + 1)).is_some(), "{open} {close}");
            assert!(too_deep(&text(100_000)).is_some(), "{open} {close}");
        }
    }

    #[test]
    fn length_alone_is_not_depth() {
        for text in [
            "permit(principal, action, resource) when { a.b.c == 1 && x };\n".repeat(1000),
            format!("[{}]", "\"a.b\", ".repeat(1000)),
            format!("[{}]", "a.b.c, ".repeat(1000)),
            "// ((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((\n".repeat(1000),
            format!("\"{}\\\"((((\"", "(".repeat(1000)),
            ")".repeat(1000),
            "a == b.c ".repeat(1000),
        ] {
            assert_eq!(too_deep(&text), None, "{}", text.get(..40).unwrap());
        }
    }

    #[test]
    fn a_bracket_in_a_comment_or_string_closes_nothing() {
        let deep = "(".repeat(30);
        for between in
            ["\"))))))))))))))))))))))))))))))\"", "// ))))))))))))))))))))))))))))))\n", "\"\\\"))))))))))))))))))\""]
        {
            assert!(too_deep(&format!("{deep}{between}{deep}")).is_some(), "{between}");
        }
    }
}
