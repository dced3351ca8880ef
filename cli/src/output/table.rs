//! Plain aligned columns, as `ls` and `docker` print them.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

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
        let cells: Vec<String> = cells.into_iter().map(Into::into).collect();
        self.table.add_row(cells);
    }

    pub fn finish(self) -> String {
        if self.table.row_iter().next().is_none() {
            return self.empty.to_owned();
        }
        trimmed(&self.table.to_string())
    }
}

/// Names and values, one a line; what is empty is left out.
#[derive(Default)]
pub struct Details(Vec<(&'static str, String)>);

impl Details {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn add(mut self, name: &'static str, value: impl ToString) -> Self {
        let value = value.to_string();
        if !value.is_empty() {
            self.0.push((name, value));
        }
        self
    }

    pub fn finish(self) -> String {
        let width = self.0.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 2;
        let indent = format!("\n{:width$}", "");
        let lines: Vec<String> = self
            .0
            .iter()
            .map(|(name, value)| format!("{name:width$}{}", value.replace('\n', &indent)))
            .collect();
        lines.join("\n")
    }
}

fn trimmed(text: &str) -> String {
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_nothing_trails() {
        let mut rows = Rows::new(&["NAME", "SIZE"], "nothing").right(&[1]);
        rows.push(["a", "1.0 KiB"]);
        rows.push(["longer", "12 B"]);
        assert_eq!(rows.finish(), "NAME       SIZE\na       1.0 KiB\nlonger     12 B");
        assert_eq!(Rows::new(&["NAME"], "nothing here").finish(), "nothing here");
    }

    #[test]
    fn details_leave_out_what_is_empty() {
        let text = Details::new().add("name", "db").add("labels", "").add("users", "a\nb").finish();
        assert_eq!(text, "name   db\nusers  a\n       b");
    }
}
