//! Tables for people, JSON for programs. JSON has the wire's field names in snake case and the same order always.

use std::io::{self, Write};

use clap::ValueEnum;
use comfy_table::Table;
use serde::Serialize;

use super::exit::Failure;
use crate::config::ByteSize;
use crate::config::value::Value;

/// How answers are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns
    Table,
    /// One JSON document
    Json,
}

/// Prints answers in the chosen format.
#[derive(Debug, Clone, Copy)]
pub struct Printer {
    format: Format,
}

impl Printer {
    /// Prints in that format.
    pub fn new(format: Format) -> Self {
        Self { format }
    }

    /// Prints one answer; `table` makes its columns when those are wanted.
    pub fn show<T: Serialize>(&self, answer: &T, table: impl FnOnce(&T) -> Table) -> Result<(), Failure> {
        let text = match self.format {
            Format::Table => table(answer).trim_fmt(),
            Format::Json => serde_json::to_string_pretty(answer)
                .map_err(|error| Failure::failed(format!("the answer can't be shown as JSON: {error}")))?,
        };
        write_out(format!("{text}\n").as_bytes())
    }

    /// Prints one of a stream of answers on a line of its own.
    pub fn show_line<T: Serialize>(&self, answer: &T, line: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        let text = match self.format {
            Format::Table => line(answer),
            Format::Json => serde_json::to_string(answer)
                .map_err(|error| Failure::failed(format!("the answer can't be shown as JSON: {error}")))?,
        };
        write_out(format!("{text}\n").as_bytes())
    }

    /// Says that something without an answer is done. JSON output stays empty then.
    pub fn done(&self, what: &str) -> Result<(), Failure> {
        match self.format {
            Format::Table => write_out(format!("{what}\n").as_bytes()),
            Format::Json => Ok(()),
        }
    }
}

/// Writes to standard output. A reader that has gone away, as `head` does, is no failure.
pub fn write_out(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// A table with columns and no lines.
pub fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(header);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// A table of one object: a field a line.
pub fn fields(rows: impl IntoIterator<Item = (&'static str, String)>) -> Table {
    let mut table = table(["FIELD", "VALUE"]);
    for (field, value) in rows {
        table.add_row([field.to_owned(), value]);
    }
    table
}

/// Bytes for people.
pub fn size(bytes: u64) -> String {
    match bytes {
        0 => "0".into(),
        bytes if bytes.is_multiple_of(1 << 20) => ByteSize::mib(u32::try_from(bytes >> 20).unwrap_or(u32::MAX)).show(),
        bytes => format!("{:.1}MiB", bytes as f64 / f64::from(1 << 20)),
    }
}

/// Bytes that the wire has as a signed number.
pub fn signed_size(bytes: i64) -> String {
    u64::try_from(bytes).map_or_else(|_| bytes.to_string(), size)
}
