// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `agentctl ps`: who runs, who they are to the daemon, and why.

use agent_proto::admin::{Process, ProcessesRequest};

use super::story;
use crate::Verdict;
use crate::cli::PsArgs;
use crate::client::{Client, Pages, Patience};
use crate::error::Error;
use crate::id::{ExecId, Subject};
use crate::json;
use crate::output::{Line, Output, Style};
use crate::table::{Cell, Column, Table};
use crate::text::near_miss;
use crate::tree::{self, Branch};

const SCHEMA: &str = "agentctl.ps/v1";
const COLUMNS: &[Column] = &[
    Column::Right("PID"),
    Column::Left("EXEC"),
    Column::Right("UID"),
    Column::Left("COMM"),
    Column::Left("IDENTITY"),
    Column::Left("FLAGS"),
    Column::Left("WHY"),
];
/// A tree must be held to be drawn. More processes than a kernel has pids by default on 64 bits (4,194,304) cannot
/// be; a quarter of that is some gigabytes of facts, which nobody reads as a tree.
const MAX_TREE: usize = 1 << 18;
/// Rows laid out together when a tree is printed.
const ROWS_A_PAGE: usize = 512;

pub(crate) async fn run(client: &Client, args: &PsArgs, output: &mut Output<'_>) -> Result<Verdict, Error> {
    let (tgid, exec_id) = Subject::split(args.subject);
    let request = ProcessesRequest { tgid, exec_id, identified: args.identified };
    let mut pages = Processes {
        pages: client.pages(Patience::Finite, client.api().processes(request)).await?,
        // Whoever names a kernel thread wants to see it.
        kernel_threads: args.all || args.subject.is_some(),
    };
    let found = if output.is_json() {
        as_json(&mut pages, output).await?
    } else if args.subject.is_some() {
        as_story(&mut pages, output).await?
    } else if args.list {
        as_list(&mut pages, output).await?
    } else {
        as_tree(&mut pages, output).await?
    };
    match args.subject {
        Some(subject) if !found => {
            if !output.is_json() {
                output.line(&Line::painted(Style::Dim, format!("no live {subject}")))?;
            }
            Ok(Verdict::Finding)
        }
        _ => Ok(Verdict::Ok),
    }
}

/// Pages of processes without those that were not asked for.
struct Processes {
    pages: Pages<agent_proto::admin::ProcessesResponse>,
    kernel_threads: bool,
}

impl Processes {
    async fn next(&mut self) -> Result<Option<Vec<Process>>, Error> {
        let Some(page) = self.pages.next().await? else {
            return Ok(None);
        };
        let wanted = |process: &Process| {
            process.instance.is_some()
                && (self.kernel_threads || !process.flags.iter().any(|flag| flag == "kernel-thread"))
        };
        Ok(Some(page.processes.into_iter().filter(wanted).collect()))
    }
}

async fn as_json(pages: &mut Processes, output: &mut Output<'_>) -> Result<bool, Error> {
    let mut found = false;
    output.begin_array(SCHEMA, "processes")?;
    while let Some(page) = pages.next().await?
        && !output.is_closed()
    {
        for process in page.iter().filter_map(json::Process::of) {
            found = true;
            output.item(&process)?;
        }
    }
    output.end_array()?;
    Ok(found)
}

async fn as_story(pages: &mut Processes, output: &mut Output<'_>) -> Result<bool, Error> {
    let mut found = false;
    while let Some(page) = pages.next().await? {
        for process in &page {
            if found {
                output.blank()?;
            }
            found = true;
            story::process(process, output)?;
            output.blank()?;
            story::identity(process, output)?;
        }
    }
    Ok(found)
}

async fn as_list(pages: &mut Processes, output: &mut Output<'_>) -> Result<bool, Error> {
    let mut table = Table::new(COLUMNS);
    while let Some(page) = pages.next().await?
        && !output.is_closed()
    {
        table.page(page.iter().map(|process| row(process, "")).collect(), output)?;
    }
    table.finish("no exec instances", output)?;
    Ok(!table.is_empty())
}

async fn as_tree(pages: &mut Processes, output: &mut Output<'_>) -> Result<bool, Error> {
    let mut processes = Vec::new();
    while let Some(page) = pages.next().await? {
        processes.extend(page);
        if processes.len() > MAX_TREE {
            return Err(Error::TreeTooLarge { limit: MAX_TREE });
        }
    }
    let mut table = Table::new(COLUMNS);
    let branches = tree::grow(&processes);
    for page in branches.chunks(ROWS_A_PAGE) {
        table.page(page.iter().map(|Branch { process, prefix }| row(process, prefix)).collect(), output)?;
    }
    table.finish("no exec instances", output)?;
    Ok(!table.is_empty())
}

fn row(process: &Process, prefix: &str) -> Vec<Cell> {
    let instance = process.instance.clone().unwrap_or_default();
    let identity = instance.spiffe_ids.first().map(String::as_str).unwrap_or_default();
    let (style, why) = if identity.is_empty() {
        (Style::Dim, near_miss(&process.near_misses).unwrap_or_default())
    } else {
        (Style::Plain, process.entry_id.clone())
    };
    let mut flags = process.flags.join(",");
    if process.leases > 0 {
        let separator = if flags.is_empty() { "" } else { "," };
        flags.push_str(&format!("{separator}leases={}", process.leases));
    }
    vec![
        Cell::new(instance.tgid.to_string()),
        Cell::new(ExecId(instance.exec_id).to_string()),
        Cell::new(process.uid.to_string()),
        Cell::new(format!("{prefix}{}", instance.comm)),
        Cell::painted(Style::Good, identity),
        Cell::painted(if is_warning(&process.flags) { Style::Warn } else { Style::Plain }, flags),
        Cell::painted(style, why),
    ]
}

/// Flags that are signs of something, and not only of how a process came to be.
fn is_warning(flags: &[String]) -> bool {
    flags.iter().any(|flag| !matches!(flag.as_str(), "seeded" | "fork" | "script" | "no-new-privs" | "kernel-thread"))
}

#[cfg(test)]
mod tests {
    use agent_proto::admin::{Difference, NearMiss};
    use agent_proto::v1::ExecInstance;

    use super::*;
    use crate::cli::Format;

    fn process(comm: &str) -> Process {
        Process {
            instance: Some(ExecInstance { exec_id: 42, tgid: 7, comm: comm.into(), ..Default::default() }),
            ..Default::default()
        }
    }

    fn printed(processes: &[Process]) -> String {
        let mut text = Vec::new();
        let mut output = Output::new(&mut text, Format::Table, false);
        let rows = processes.iter().map(|process| row(process, "└─ ")).collect();
        Table::new(COLUMNS).page(rows, &mut output).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn why_is_the_entry_or_the_one_fact_that_differs() {
        let hash = |digit: &str| format!("script:sha256:{}", digit.repeat(64));
        let mut agent = process("agent");
        agent.entry_id = "report-writer".into();
        if let Some(instance) = &mut agent.instance {
            instance.spiffe_ids = vec!["spiffe://example.org/agent/writer".into()];
        }
        let mut impostor = process("impostor");
        impostor.near_misses = vec![NearMiss {
            entry_id: "report-writer".into(),
            spiffe_id: String::new(),
            differences: vec![Difference { expected: hash("a"), actual: hash("b"), note: String::new() }],
        }];
        impostor.flags = vec!["memfd".into()];
        impostor.leases = 2;
        let text = printed(&[agent, impostor]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].contains("x42") && lines[1].contains("└─ agent") && lines[1].ends_with("  report-writer"));
        assert!(
            lines[2].ends_with("memfd,leases=2  report-writer: script:sha256 expected aaaaaaaaaaaa… got bbbbbbbbbbbb…"),
            "{text}"
        );
    }

    #[test]
    fn a_name_cannot_forge_a_row() {
        let text = printed(&[process("x\n1  x1  0  init\x1b[2K")]);
        assert_eq!(text.lines().count(), 2);
        assert!(text.contains("x\\u{a}1"));
    }
}
