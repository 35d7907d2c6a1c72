// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Strings that processes chose, made safe to print on a terminal, and short enough for a table.

use std::borrow::Cow;

use agent_proto::admin::{Difference, NearMiss};

/// True for what a terminal might obey or what could disguise the text beside it: control characters (C0, DEL, C1),
/// separators of lines, and the invisible ones that turn the direction of writing.
pub(crate) fn is_hostile(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// The text with every hostile character written as `\u{…}`.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hostile) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if is_hostile(character) {
            safe.extend(character.escape_unicode());
        } else {
            safe.push(character);
        }
    }
    Cow::Owned(safe)
}

/// Text of several lines, such as a policy: each line made safe, tabs as spaces.
pub(crate) fn escape_lines(text: &str) -> impl Iterator<Item = String> {
    text.lines().map(|line| escape(&line.replace('\t', "    ")).into_owned())
}

/// A value for a table: long runs of hexadecimal digits (hashes) keep their first twelve.
pub(crate) fn brief(value: &str) -> String {
    const KEEP: usize = 12;
    const LONG: usize = 32;
    let mut short = String::with_capacity(value.len());
    let mut run = String::new();
    for character in value.chars() {
        if character.is_ascii_hexdigit() {
            run.push(character);
            continue;
        }
        push_run(&mut short, &run, KEEP, LONG);
        run.clear();
        short.push(character);
    }
    push_run(&mut short, &run, KEEP, LONG);
    short
}

fn push_run(short: &mut String, run: &str, keep: usize, long: usize) {
    if run.len() >= long {
        short.extend(run.chars().take(keep));
        short.push('…');
    } else {
        short.push_str(run);
    }
}

/// `unix:uid` of `unix:uid:1000`: what SPIRE and our entries call the kind of a selector.
fn selector_kind(selector: &str) -> Option<&str> {
    let (first, rest) = selector.split_once(':')?;
    let (second, _) = rest.split_once(':')?;
    selector.get(..first.len() + 1 + second.len())
}

/// One difference: `script:sha256 expected 12ab… got 34cd…`.
pub(crate) fn difference(difference: &Difference) -> String {
    let Difference { expected, actual, note } = difference;
    let mut line = match selector_kind(expected).filter(|kind| selector_kind(actual) == Some(*kind)) {
        Some(kind) => {
            let value = |selector: &str| brief(selector.get(kind.len() + 1..).unwrap_or_default());
            format!("{kind} expected {} got {}", value(expected), value(actual))
        }
        None if actual.is_empty() => format!("expected {} got nothing", brief(expected)),
        None => format!("expected {} got {}", brief(expected), brief(actual)),
    };
    if !note.is_empty() {
        line.push_str(" (");
        line.push_str(note);
        line.push(')');
    }
    line
}

/// The nearest registration entry and its first difference, for one cell.
pub(crate) fn near_miss(near_misses: &[NearMiss]) -> Option<String> {
    let nearest = near_misses.first()?;
    let Some(first) = nearest.differences.first() else {
        return Some(nearest.entry_id.clone());
    };
    let mut line = format!("{}: {}", nearest.entry_id, difference(first));
    if nearest.differences.len() > 1 {
        line.push_str(&format!(" (+{} more)", nearest.differences.len() - 1));
    }
    Some(line)
}

/// `-` for what is empty, so that columns stay countable.
pub(crate) fn dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

/// An address and port as written in a URL.
pub(crate) fn endpoint(address: &str, port: u32) -> String {
    if address.is_empty() {
        return String::new();
    }
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// `1 lease`, `2 leases`.
pub(crate) fn count(number: impl Into<u64>, one: &str, many: &str) -> String {
    let number = number.into();
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Bytes in binary units.
pub(crate) fn bytes(size: u64) -> String {
    const MIB: u64 = 1 << 20;
    if size < MIB { format!("{} KiB", size >> 10) } else { format!("{}.{} MiB", size / MIB, size % MIB * 10 / MIB) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn differs(expected: &str, actual: &str, note: &str) -> Difference {
        Difference { expected: expected.into(), actual: actual.into(), note: note.into() }
    }

    #[test]
    fn nothing_a_terminal_would_obey_is_left() {
        for (text, expected) in [
            ("plain Ünïcode 漢字", "plain Ünïcode 漢字"),
            ("\x1b[2Jgone", "\\u{1b}[2Jgone"),
            ("a\nb\rc\td", "a\\u{a}b\\u{d}c\\u{9}d"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("\x7f\0", "\\u{7f}\\u{0}"),
            ("evil\u{202e}txt.exe", "evil\\u{202e}txt.exe"),
            ("zero\u{200b}width", "zero\\u{200b}width"),
        ] {
            assert_eq!(escape(text), expected);
            assert!(!escape(text).contains(is_hostile));
        }
        for code in (0..=0x1f).chain(0x7f..=0x9f) {
            let character = char::from_u32(code).unwrap();
            assert!(is_hostile(character), "{code:#x}");
        }
    }

    #[test]
    fn hashes_are_cut_and_words_are_not() {
        let hash = "0123456789abcdef".repeat(4);
        assert_eq!(brief(&format!("sha256:{hash}")), "sha256:0123456789ab…");
        assert_eq!(brief("/usr/bin/facade-decade-added"), "/usr/bin/facade-decade-added");
        assert_eq!(brief(""), "");
    }

    #[test]
    fn a_difference_names_its_kind_once() {
        for (given, expected) in [
            (differs("unix:uid:1000", "unix:uid:1001", ""), "unix:uid expected 1000 got 1001"),
            (differs("unix:path:/a:b", "unix:path:/a:c", ""), "unix:path expected /a:b got /a:c"),
            (differs("script:path:/a", "", ""), "expected script:path:/a got nothing"),
            (differs("any of: a, b", "unix:uid:1", ""), "expected any of: a, b got unix:uid:1"),
            (differs("a:b:c", "a:b:c", "claimed only"), "a:b expected c got c (claimed only)"),
        ] {
            assert_eq!(difference(&given), expected);
        }
    }

    #[test]
    fn the_nearest_entry_comes_with_its_first_difference() {
        let miss = NearMiss {
            entry_id: "writer".into(),
            spiffe_id: String::new(),
            differences: vec![differs("unix:uid:1", "unix:uid:2", ""), differs("a:b:c", "", "")],
        };
        assert_eq!(near_miss(&[miss]).as_deref(), Some("writer: unix:uid expected 1 got 2 (+1 more)"));
        assert_eq!(near_miss(&[]), None);
    }

    #[test]
    fn ipv6_addresses_are_bracketed() {
        assert_eq!(endpoint("::1", 443), "[::1]:443");
        assert_eq!(endpoint("127.0.0.1", 443), "127.0.0.1:443");
        assert_eq!(endpoint("", 0), "");
    }

    #[test]
    fn sizes_are_rounded_down() {
        assert_eq!(bytes(0), "0 KiB");
        assert_eq!(bytes(18_350_080), "17.5 MiB");
    }
}
