// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Tables that are printed page by page, so that a long list never has to be held. The first page fixes the widths
//! and the only header; later pages may widen a column and never narrow it.

use comfy_table::{Attribute, CellAlignment, Color, ColumnConstraint, ContentArrangement, Width};

use crate::error::Error;
use crate::output::{Line, Output, Style};
use crate::text::{dash, escape};

/// One value, escaped.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// An empty text prints as `-`.
    pub(crate) fn new(text: impl AsRef<str>) -> Self {
        Self::painted(Style::Plain, text)
    }

    pub(crate) fn painted(style: Style, text: impl AsRef<str>) -> Self {
        let text = text.as_ref();
        let style = if text.is_empty() { Style::Dim } else { style };
        Self { text: escape(dash(text)).into_owned(), style }
    }
}

/// A heading, and on which side the values stand.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Column {
    Left(&'static str),
    Right(&'static str),
}

/// A table being printed.
#[derive(Debug)]
pub(crate) struct Table {
    columns: &'static [Column],
    widths: Vec<u16>,
    rows: u64,
}

impl Table {
    pub(crate) fn new(columns: &'static [Column]) -> Self {
        Self { columns, widths: Vec::new(), rows: 0 }
    }

    /// Prints some more rows.
    pub(crate) fn page(&mut self, rows: Vec<Vec<Cell>>, output: &mut Output<'_>) -> Result<(), Error> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut page = comfy_table::Table::new();
        page.load_style(comfy_table::presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        if output.paints() {
            page.enforce_styling();
        } else {
            page.force_no_tty();
        }
        if self.rows == 0 {
            page.set_header(self.columns.iter().map(|column| {
                let (Column::Left(name) | Column::Right(name)) = column;
                comfy_table::Cell::new(name).add_attribute(Attribute::Dim)
            }));
        }
        self.rows = self.rows.saturating_add(u64::try_from(rows.len()).unwrap_or(u64::MAX));
        for row in rows {
            page.add_row(row.into_iter().map(styled));
        }
        let content = page.column_max_content_widths();
        let before = std::mem::take(&mut self.widths);
        self.widths =
            content.iter().enumerate().map(|(at, width)| (*width).max(before.get(at).copied().unwrap_or(0))).collect();
        for ((column, width), kind) in page.column_iter_mut().zip(&self.widths).zip(self.columns) {
            column.set_padding((0, 2)).set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(width + 2)));
            if let Column::Right(_) = kind {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for line in page.lines() {
            output.raw(format!("{}\n", line.trim_end()).as_bytes())?;
        }
        output.flush()
    }

    /// Says so when there was nothing.
    pub(crate) fn finish(&self, nothing: &str, output: &mut Output<'_>) -> Result<(), Error> {
        if self.rows == 0 { output.line(&Line::painted(Style::Dim, nothing)) } else { Ok(()) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows == 0
    }
}

fn styled(cell: Cell) -> comfy_table::Cell {
    let shown = comfy_table::Cell::new(cell.text);
    match cell.style {
        Style::Plain => shown,
        Style::Good => shown.fg(Color::DarkGreen),
        Style::Warn => shown.fg(Color::DarkYellow),
        Style::Bad => shown.fg(Color::DarkRed),
        Style::Dim => shown.add_attribute(Attribute::Dim),
        Style::Title => shown.add_attribute(Attribute::Bold),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Format;

    const COLUMNS: &[Column] = &[Column::Right("PID"), Column::Left("COMM"), Column::Left("WHY")];

    fn row(cells: [&str; 3]) -> Vec<Cell> {
        cells.into_iter().map(Cell::new).collect()
    }

    fn printed(pages: Vec<Vec<Vec<Cell>>>, paint: bool) -> String {
        let mut text = Vec::new();
        let mut output = Output::new(&mut text, Format::Table, paint);
        let mut table = Table::new(COLUMNS);
        for page in pages {
            table.page(page, &mut output).unwrap();
        }
        table.finish("nothing", &mut output).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn later_pages_keep_the_widths_and_the_one_header() {
        let text = printed(
            vec![
                vec![row(["1", "long-name", "a"]), row(["1234", "b", ""])],
                vec![row(["7", "c", "d"])],
                vec![row(["123456", "漢字", "e"])],
            ],
            false,
        );
        assert_eq!(
            text,
            " PID  COMM       WHY\n   1  long-name  a\n1234  b          -\n   7  c          d\n123456  漢字       e\n"
        );
    }

    #[test]
    fn an_empty_table_says_so() {
        assert_eq!(printed(vec![vec![]], false), "nothing\n");
    }

    #[test]
    fn hostile_names_cannot_break_a_row_or_a_terminal() {
        let text = printed(vec![vec![row(["1", "x\n2  fake\x1b[31m", "a"])]], false);
        assert_eq!(text.lines().count(), 2);
        assert!(!text.contains('\x1b'));
    }

    #[test]
    fn colours_are_written_only_when_asked_for() {
        let page = || vec![vec![vec![Cell::painted(Style::Bad, "1"), Cell::new("b"), Cell::new("c")]]];
        assert!(printed(page(), true).contains('\x1b'));
        assert!(!printed(page(), false).contains('\x1b'));
    }
}
