// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Where everything is printed. Text goes through [`Line`] or a table cell, which escape what a terminal might
//! obey; JSON is a document with its schema first, an array that is written as it comes, or one line an event.
//! A reader that has gone (`agentctl ps | head`) ends the output and not the command's verdict.

use std::io::{self, Write};

use serde::Serialize;

use crate::cli::Format;
use crate::error::Error;
use crate::text::{escape, is_hostile};

/// The meaning of a piece of text; the colour follows from it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Style {
    #[default]
    Plain,
    Good,
    Warn,
    Bad,
    Dim,
    Title,
}

impl Style {
    pub(crate) fn ansi(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Good => Some("\x1b[32m"),
            Self::Warn => Some("\x1b[33m"),
            Self::Bad => Some("\x1b[31m"),
            Self::Dim => Some("\x1b[2m"),
            Self::Title => Some("\x1b[1m"),
        }
    }
}

/// One line of text, escaped piece by piece as it is put together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Line {
    pieces: Vec<(Style, String)>,
}

impl Line {
    pub(crate) fn new(text: impl AsRef<str>) -> Self {
        Self::default().and(text)
    }

    pub(crate) fn painted(style: Style, text: impl AsRef<str>) -> Self {
        Self::default().paint(style, text)
    }

    #[must_use]
    pub(crate) fn and(self, text: impl AsRef<str>) -> Self {
        self.paint(Style::Plain, text)
    }

    #[must_use]
    pub(crate) fn paint(mut self, style: Style, text: impl AsRef<str>) -> Self {
        self.pieces.push((style, escape(text.as_ref()).into_owned()));
        self
    }
}

/// Standard output, or a test's buffer.
pub(crate) struct Output<'w> {
    sink: &'w mut dyn Write,
    format: Format,
    paint: bool,
    closed: bool,
    array: Option<ArrayState>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ArrayState {
    Empty,
    Filled,
}

#[derive(Serialize)]
struct Document<'a, T> {
    schema: &'static str,
    #[serde(flatten)]
    body: &'a T,
}

impl<'w> Output<'w> {
    pub(crate) fn new(sink: &'w mut dyn Write, format: Format, paint: bool) -> Self {
        Self { sink, format, paint, closed: false, array: None }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    pub(crate) fn paints(&self) -> bool {
        self.paint
    }

    /// True when nobody reads any more: a stream can stop.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Writes bytes as they are: completion scripts, and the audit log's own lines on request.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if self.closed {
            return Ok(());
        }
        let written = self.sink.write_all(bytes);
        self.noted(written)
    }

    pub(crate) fn flush(&mut self) -> Result<(), Error> {
        if self.closed {
            return Ok(());
        }
        let flushed = self.sink.flush();
        self.noted(flushed)
    }

    fn noted(&mut self, result: io::Result<()>) -> Result<(), Error> {
        match result {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            other => other.map_err(Error::Write),
        }
    }

    pub(crate) fn line(&mut self, line: &Line) -> Result<(), Error> {
        let mut text = String::new();
        for (style, piece) in &line.pieces {
            match style.ansi().filter(|_| self.paint && !piece.is_empty()) {
                Some(colour) => {
                    text.push_str(colour);
                    text.push_str(piece);
                    text.push_str("\x1b[0m");
                }
                None => text.push_str(piece),
            }
        }
        let text = text.trim_end();
        self.raw(format!("{text}\n").as_bytes())
    }

    pub(crate) fn text(&mut self, text: impl AsRef<str>) -> Result<(), Error> {
        self.line(&Line::new(text))
    }

    pub(crate) fn blank(&mut self) -> Result<(), Error> {
        self.raw(b"\n")
    }

    pub(crate) fn title(&mut self, text: &str) -> Result<(), Error> {
        self.line(&Line::painted(Style::Title, text))
    }

    /// A whole JSON document.
    pub(crate) fn document<T: Serialize>(&mut self, schema: &'static str, body: &T) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(&Document { schema, body }).map_err(Error::Json)?;
        self.raw(format!("{}\n", quiet(&text)).as_bytes())
    }

    /// One event of a stream, on a line of its own and at once.
    pub(crate) fn event<T: Serialize>(&mut self, schema: &'static str, body: &T) -> Result<(), Error> {
        let text = serde_json::to_string(&Document { schema, body }).map_err(Error::Json)?;
        self.raw(format!("{}\n", quiet(&text)).as_bytes())?;
        self.flush()
    }

    /// Begins a document whose one field is an array, to be written item by item.
    pub(crate) fn begin_array(&mut self, schema: &'static str, field: &'static str) -> Result<(), Error> {
        self.array = Some(ArrayState::Empty);
        self.raw(format!("{{\n  \"schema\": \"{schema}\",\n  \"{field}\": [").as_bytes())
    }

    pub(crate) fn item<T: Serialize>(&mut self, item: &T) -> Result<(), Error> {
        let text = serde_json::to_string(item).map_err(Error::Json)?;
        let before =
            if self.array.replace(ArrayState::Filled) == Some(ArrayState::Filled) { ",\n    " } else { "\n    " };
        self.raw(format!("{before}{}", quiet(&text)).as_bytes())
    }

    /// Never called when a stream failed: a document cut short must not look whole.
    pub(crate) fn end_array(&mut self) -> Result<(), Error> {
        let before = if self.array.take() == Some(ArrayState::Filled) { "\n  " } else { "" };
        self.raw(format!("{before}]\n}}\n").as_bytes())
    }
}

/// JSON text in which nothing is left for a terminal to obey. The library escapes C0; what remains can only stand
/// inside a string, where `\u…` means the same.
pub(crate) fn quiet(json: &str) -> String {
    let mut safe = String::with_capacity(json.len());
    for character in json.chars() {
        if character > '\x7e' && is_hostile(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                safe.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            safe.push(character);
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes, then the reader is gone.
    struct Pipe(usize);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_has_gone_ends_the_output_without_an_error() {
        let mut pipe = Pipe(6);
        let mut output = Output::new(&mut pipe, Format::Table, false);
        output.text("first").unwrap();
        assert!(!output.is_closed());
        output.text("second").unwrap();
        assert!(output.is_closed());
        output.text("third").unwrap();
        output.flush().unwrap();
    }

    #[test]
    fn any_other_failure_to_write_is_an_error() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        assert!(matches!(Output::new(&mut Full, Format::Table, false).text("x"), Err(Error::Write(_))));
    }

    #[test]
    fn colours_are_only_ours() {
        let line = Line::painted(Style::Bad, "no").and(" \x1b[32myes");
        for (paint, expected) in [(false, "no \\u{1b}[32myes\n"), (true, "\x1b[31mno\x1b[0m \\u{1b}[32myes\n")] {
            let mut text = Vec::new();
            Output::new(&mut text, Format::Table, paint).line(&line).unwrap();
            assert_eq!(String::from_utf8(text).unwrap(), expected);
        }
    }

    #[test]
    fn json_keeps_its_meaning_and_loses_its_control_characters() {
        let given = "a\u{9b}2J\x7f\x1b\u{202e}\u{e0001}\u{10000}ü\"";
        let safe = quiet(&serde_json::to_string(given).unwrap());
        assert!(!safe.contains(is_hostile), "{safe:?}");
        assert_eq!(serde_json::from_str::<String>(&safe).unwrap(), given);
    }

    #[test]
    fn arrays_are_whole_documents_with_any_number_of_items() {
        for count in 0..3 {
            let mut text = Vec::new();
            let mut output = Output::new(&mut text, Format::Json, false);
            output.begin_array("agentctl.test/v1", "numbers").unwrap();
            for number in 0..count {
                output.item(&number).unwrap();
            }
            output.end_array().unwrap();
            let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
            assert_eq!(value["schema"], "agentctl.test/v1");
            assert_eq!(value["numbers"].as_array().unwrap().len(), count);
        }
    }
}
