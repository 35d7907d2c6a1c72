// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Headers, names, sizes and words of single files.

use super::{File, Finding};

const HEADER: &str = "every .rs and .proto file starts with its SPDX licence line";
const NAME: &str = "a file is named for what is in it, not utils, helpers, common, types or misc";
const SIZE: &str = "a file has at most 500 lines, one with tests only 600: split it by what it owns";
const OPEN_ITEM: &str = "what is left to do carries the link of an issue (#N)";
const TRAILING: &str = "no white space at the end of a line";
const REGISTRY: &str = "no host names of package registries: builds go through each tool's own configuration";

const LINES: usize = 500;
const TEST_LINES: usize = 600;
const VAGUE: [&str; 5] = ["utils", "helpers", "common", "types", "misc"];
const WRITTEN: [&str; 13] =
    ["rs", "proto", "toml", "md", "py", "sh", "cedar", "cedarschema", "yml", "yaml", "json", "service", "run"];
/// In pieces, so that this file keeps its own rule.
const REGISTRIES: [(&str, &str); 10] = [
    ("crates", "io"),
    ("static.rust-lang", "org"),
    ("pypi", "org"),
    ("pythonhosted", "org"),
    ("npmjs", "org"),
    ("npmjs", "com"),
    ("proxy.golang", "org"),
    ("deb.debian", "org"),
    ("archive.ubuntu", "com"),
    ("rubygems", "org"),
];

pub(super) fn check(file: &File, findings: &mut Vec<Finding>) {
    if file.is_generated() {
        return;
    }
    let mut report = |line: usize, detail: String, rule: &'static str| {
        findings.push(Finding { path: file.path.clone(), line, detail, rule });
    };
    if is_written(file) {
        let hosts: Vec<String> = REGISTRIES.iter().map(|(name, domain)| format!("{name}.{domain}")).collect();
        for (number, line) in (1..).zip(file.text.lines()) {
            if line.ends_with([' ', '\t', '\r']) {
                report(number, "ends in white space".into(), TRAILING);
            }
            if let Some(word) = open_item(line) {
                report(number, format!("{word} without an issue"), OPEN_ITEM);
            }
            if let Some(host) = hosts.iter().find(|host| names_host(line, host)) {
                report(number, format!("names {host}"), REGISTRY);
            }
        }
    }
    if matches!(file.extension(), "rs" | "proto") && !has_header(&file.text) {
        report(1, "no `SPDX-License-Identifier` in the first two lines".into(), HEADER);
    }
    if file.extension() == "rs" {
        let stem = file.name().trim_end_matches(".rs");
        let folder = file.path.rsplit('/').nth(1).unwrap_or_default();
        if let Some(vague) = VAGUE.iter().find(|vague| stem == **vague || (stem == "mod" && folder == **vague)) {
            report(0, format!("is named {vague}"), NAME);
        }
        let (lines, limit) = (file.text.lines().count(), if file.is_test() { TEST_LINES } else { LINES });
        if lines > limit {
            report(0, format!("has {lines} lines, {limit} are allowed"), SIZE);
        }
    }
}

fn is_written(file: &File) -> bool {
    WRITTEN.contains(&file.extension()) || file.path.starts_with(".ci/") || file.text.starts_with("#!")
}

fn has_header(text: &str) -> bool {
    text.lines().take(2).any(|line| line.contains("SPDX-License-Identifier: "))
}

/// The marker of unfinished work on this line, if no issue follows it.
fn open_item(line: &str) -> Option<String> {
    let markers = [["TO", "DO"].concat(), ["FIX", "ME"].concat()];
    let words = || line.split(|character: char| !character.is_alphanumeric() && character != '_');
    let marker = markers.into_iter().find(|marker| words().any(|word| word == marker))?;
    let has_issue = line.split('#').skip(1).any(|after| after.starts_with(|first: char| first.is_ascii_digit()));
    (!has_issue).then_some(marker)
}

/// The host itself, not the end of another name or the start of a longer one.
fn names_host(line: &str, host: &str) -> bool {
    line.match_indices(host).any(|(at, _)| {
        let before = line.get(..at).and_then(|before| before.chars().next_back());
        let after = line.get(at + host.len()..).and_then(|after| after.chars().next());
        !before.is_some_and(|character| character.is_alphanumeric() || character == '-')
            && !after.is_some_and(char::is_alphanumeric)
    })
}
