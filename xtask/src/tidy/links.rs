// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Relative links between Markdown files lead to something.

use std::collections::BTreeSet;

use super::{File, Finding};

const RULE: &str = "a relative link in Markdown leads to a file, folder or heading of this tree";

pub(super) fn check(files: &[File], findings: &mut Vec<Finding>) {
    let mut known: BTreeSet<String> = files.iter().map(|file| file.path.clone()).collect();
    for file in files {
        for (at, _) in file.path.match_indices('/') {
            known.extend(file.path.get(..at).map(str::to_owned));
        }
    }
    for file in files.iter().filter(|file| file.extension() == "md") {
        for (line, target) in links(&file.text) {
            if let Some(problem) = problem(file, &target, &known, files) {
                findings.push(Finding { path: file.path.clone(), line, detail: problem, rule: RULE });
            }
        }
    }
}

fn problem(file: &File, target: &str, known: &BTreeSet<String>, files: &[File]) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let resolved = if path.is_empty() { Some(file.path.clone()) } else { resolve(&file.path, path) };
    let Some(resolved) = resolved.filter(|resolved| resolved.is_empty() || known.contains(resolved)) else {
        return Some(format!("links to {path}, which does not exist"));
    };
    let document = files.iter().find(|file| file.path == resolved && file.extension() == "md")?;
    let missing = !anchor.is_empty() && !headings(&document.text).contains(anchor);
    missing.then(|| format!("links to {target}, which has no such heading"))
}

/// The path from the root, or nothing if it leaves the tree.
fn resolve(from: &str, link: &str) -> Option<String> {
    let mut segments: Vec<&str> = match link.strip_prefix('/') {
        Some(_) => Vec::new(),
        None => from.split('/').collect(),
    };
    segments.pop();
    for segment in link.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop()?;
            }
            name => segments.push(name),
        }
    }
    Some(segments.join("/"))
}

/// Targets of `[text](target)` and `[name]: target` with their lines, outside code.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut links = Vec::new();
    for (number, line) in prose(text) {
        for (at, _) in line.match_indices("](") {
            let target = line.get(at + 2..).and_then(|rest| rest.split(')').next()).unwrap_or_default();
            links.push((number, target.split_whitespace().next().unwrap_or_default().to_owned()));
        }
        let definition = line.strip_prefix('[').and_then(|rest| rest.split_once("]: "));
        if let Some((_, target)) = definition {
            links.push((number, target.split_whitespace().next().unwrap_or_default().to_owned()));
        }
    }
    links
}

/// Lines outside fenced blocks, without code spans, numbered from 1.
fn prose(text: &str) -> Vec<(usize, String)> {
    let mut fenced = false;
    let mut lines = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            lines.push((number, line.split('`').step_by(2).collect::<Vec<_>>().join(" ")));
        }
    }
    lines
}

/// The anchors that renderers make of the headings.
fn headings(text: &str) -> BTreeSet<String> {
    let mut fenced = false;
    let mut anchors = BTreeSet::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        let heading = line.trim_start_matches('#');
        if fenced || heading.len() == line.len() || !heading.starts_with(' ') {
            continue;
        }
        let kept = heading.trim().chars().filter(|character| character.is_alphanumeric() || " -_".contains(*character));
        anchors.insert(kept.collect::<String>().to_lowercase().replace(' ', "-"));
    }
    anchors
}
