//! Plain aligned columns, as `ls` and `docker` print them.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use holdfast_archive::text::printable;

use super::Lines;

/// Rows under headings.
pub struct Rows {
    table: Table,
    empty: &'static str,
}

impl Rows {
    /// `empty` is said instead of a lone heading.
    pub fn new(headings: &[&str], empty: &'static str) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(headings.iter().copied());
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        Self { table, empty }
    }

    /// Numbers line up at their ends.
    pub fn right(mut self, columns: &[usize]) -> Self {
        for &index in columns {
            if let Some(column) = self.table.column_mut(index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        self
    }

    pub fn push<C: Into<String>>(&mut self, cells: impl IntoIterator<Item = C>) {
        // Before the table measures its columns: what is escaped is wider.
        let cells: Vec<String> = cells.into_iter().map(|cell| printable(&cell.into()).into_owned()).collect();
        self.table.add_row(cells);
    }

    pub fn finish(self) -> Lines {
        // Headings over nothing look like an output that was cut off.
        if self.table.row_iter().next().is_none() {
            return Lines::of_text(self.empty);
        }
        self.table.to_string().lines().map(str::trim_end).collect()
    }
}

/// Names and values, one a line; what is empty is left out.
#[derive(Default)]
pub struct Details(Vec<(&'static str, Vec<String>)>);

impl Details {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn add(self, name: &'static str, value: impl ToString) -> Self {
        self.list(name, [value.to_string()])
    }

    /// Several values, one a line.
    pub fn list<S: Into<String>>(mut self, name: &'static str, values: impl IntoIterator<Item = S>) -> Self {
        let values: Vec<String> =
            values.into_iter().map(Into::into).filter(|value| !value.is_empty()).collect();
        if !values.is_empty() {
            self.0.push((name, values));
        }
        self
    }

    pub fn finish(self) -> Lines {
        let width = self.0.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 2;
        let mut lines = Lines::new();
        for (name, values) in &self.0 {
            for (index, value) in values.iter().enumerate() {
                // The name stands once, beside the first of its values.
                let name = if index == 0 { name } else { "" };
                lines.push(format!("{name:width$}{value}"));
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_nothing_trails() {
        let mut rows = Rows::new(&["NAME", "SIZE"], "nothing").right(&[1]);
        rows.push(["a", "1.0 KiB"]);
        rows.push(["longer", "12 B"]);
        assert_eq!(rows.finish().to_string(), "NAME       SIZE\na       1.0 KiB\nlonger     12 B");
        assert_eq!(Rows::new(&["NAME"], "nothing here").finish().to_string(), "nothing here");
    }

    #[test]
    fn details_leave_out_what_is_empty() {
        let text = Details::new().add("name", "db").add("labels", "").list("users", ["a", "b"]).finish();
        assert_eq!(text.to_string(), "name   db\nusers  a\n       b");
    }
}
