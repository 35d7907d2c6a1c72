// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What was measured, what was budgeted, and where.

use std::fmt::Write as _;
use std::fs;

use anyhow::Context as _;
use serde_json::{Value, json};

/// How the result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For `docs/benchmarks.md`.
    Markdown,
    /// For programs.
    Json,
}

/// What the design allows.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Budget {
    AtMost(f64),
    AtLeast(f64),
    /// Measured for its context.
    None,
}

/// One thing that was measured.
#[derive(Debug)]
pub(crate) struct Row {
    what: String,
    measured: f64,
    /// Empty for a ratio or a count.
    unit: &'static str,
    is_ratio: bool,
    detail: String,
    budget: Budget,
}

impl Row {
    pub(crate) fn new(
        what: impl Into<String>,
        measured: f64,
        unit: &'static str,
        detail: String,
        budget: Budget,
    ) -> Self {
        Self { what: what.into(), measured, unit, is_ratio: false, detail, budget }
    }

    pub(crate) fn ratio(what: impl Into<String>, measured: f64, detail: String, budget: Budget) -> Self {
        Self { what: what.into(), measured, unit: "", is_ratio: true, detail, budget }
    }

    fn is_inside(&self) -> Option<bool> {
        match self.budget {
            Budget::AtMost(limit) => Some(self.measured <= limit),
            Budget::AtLeast(limit) => Some(self.measured >= limit),
            Budget::None => None,
        }
    }

    fn number(&self, value: f64) -> String {
        match (self.is_ratio, self.unit) {
            (true, _) => format!("{value:.3}"),
            (false, "MB") => format!("{value:.1} MB"),
            (false, "") => format!("{value:.0}"),
            (false, unit) => format!("{value:.0} {unit}"),
        }
    }

    fn cells(&self) -> [String; 5] {
        let budget = match self.budget {
            Budget::AtMost(limit) => format!("≤ {}", self.number(limit)),
            Budget::AtLeast(limit) => format!("≥ {}", self.number(limit)),
            Budget::None => "–".to_owned(),
        };
        let verdict = match self.is_inside() {
            Some(true) => "ok",
            Some(false) => "OUTSIDE",
            None => "–",
        };
        [self.what.clone(), self.number(self.measured), budget, verdict.to_owned(), self.detail.clone()]
    }
}

/// All that was measured in one run.
#[derive(Debug)]
pub(crate) struct Report {
    is_quick: bool,
    machine: Vec<(&'static str, String)>,
    rows: Vec<Row>,
    notes: Vec<String>,
}

const HEAD: [&str; 5] = ["what", "measured", "budget", "", "how"];

impl Report {
    pub(crate) fn new(is_quick: bool) -> anyhow::Result<Self> {
        let field = |text: &str, name: &str| -> Option<String> {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
        let memory = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
        let cpus = std::thread::available_parallelism()?;
        let load = fs::read_to_string("/proc/loadavg").context("cannot read /proc/loadavg")?;
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let model = field(&cpuinfo, "model name").unwrap_or_else(|| "unknown".to_owned());
        let machine = vec![
            ("kernel", format!("{release} {}", std::env::consts::ARCH)),
            ("CPU", format!("{cpus} × {model}")),
            ("memory", field(&memory, "MemTotal").unwrap_or_default()),
            ("load before", load.split(' ').take(3).collect::<Vec<_>>().join(" ")),
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ];
        Ok(Self { is_quick, machine, rows: Vec::new(), notes: Vec::new() })
    }

    pub(crate) fn row(&mut self, row: Row) {
        let [what, measured, budget, verdict, detail] = row.cells();
        crate::say(format_args!("  {what}: {measured} (budget {budget}, {verdict}) {detail}"));
        self.rows.push(row);
    }

    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    pub(crate) fn finish(&self, format: Format) -> anyhow::Result<String> {
        let mut out = String::new();
        match format {
            Format::Json => writeln!(out, "{:#}", self.json())?,
            Format::Table => self.table(&mut out)?,
            Format::Markdown => self.markdown(&mut out)?,
        }
        Ok(out)
    }

    fn table(&self, out: &mut String) -> Result<(), std::fmt::Error> {
        let mut rows = vec![HEAD.map(str::to_owned)];
        rows.extend(self.rows.iter().map(Row::cells));
        let width = |column: usize| {
            rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
        for row in &rows {
            for (cell, width) in row.iter().zip(&widths) {
                write!(out, "{cell:width$}  ")?;
            }
            out.truncate(out.trim_end().len());
            out.push('\n');
        }
        out.push('\n');
        self.context(out, "")
    }

    fn markdown(&self, out: &mut String) -> Result<(), std::fmt::Error> {
        writeln!(out, "| {} |\n|{}", HEAD.join(" | "), " --- |".repeat(HEAD.len()))?;
        for row in &self.rows {
            writeln!(out, "| {} |", row.cells().join(" | ").trim_end())?;
        }
        out.push('\n');
        self.context(out, "- ")
    }

    fn context(&self, out: &mut String, bullet: &str) -> Result<(), std::fmt::Error> {
        for (name, value) in &self.machine {
            writeln!(out, "{bullet}{name}: {value}")?;
        }
        if self.is_quick {
            writeln!(out, "{bullet}A quick run: few rounds, wide spread.")?;
        }
        for note in &self.notes {
            writeln!(out, "{bullet}{note}")?;
        }
        Ok(())
    }

    fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let (at_most, at_least) = match row.budget {
                    Budget::AtMost(limit) => (Some(limit), None),
                    Budget::AtLeast(limit) => (None, Some(limit)),
                    Budget::None => (None, None),
                };
                json!({
                    "what": row.what,
                    "measured": row.measured,
                    "unit": if row.is_ratio { "ratio" } else { row.unit },
                    "at_most": at_most,
                    "at_least": at_least,
                    "inside": row.is_inside(),
                    "how": row.detail,
                })
            })
            .collect();
        let machine: serde_json::Map<String, Value> =
            self.machine.iter().map(|(name, value)| ((*name).to_owned(), value.clone().into())).collect();
        json!({ "version": 1, "quick": self.is_quick, "machine": machine, "rows": rows, "notes": self.notes })
    }
}
