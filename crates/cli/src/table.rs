//! Tables: with a frame on a terminal, as plain columns elsewhere.

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

use crate::failure::Failure;
use crate::output::Output;

/// Between two columns where there is no frame.
const COLUMN_GAP: u16 = 3;

/// On a terminal a frame; elsewhere plain columns, for other tools to cut.
pub fn new(terminal: bool) -> Table {
    let mut table = Table::new();
    if terminal {
        table.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    } else {
        table.load_style(presets::NOTHING);
    }
    table
}

/// Prints a table that [`new`] began.
pub fn print(mut table: Table, output: &mut Output) -> Result<(), Failure> {
    if !output.terminal() {
        for column in table.column_iter_mut() {
            column.set_padding((0, COLUMN_GAP));
        }
    }
    output.line(table.trim_fmt(), Value::Null)
}
