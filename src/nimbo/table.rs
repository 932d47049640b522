//! Tables for people: columns as wide as what is in them, with a head.

/// The lines of a table; none if there are no rows. What is not there is shown as a dash.
pub(crate) fn lines<const COLUMNS: usize>(head: [&str; COLUMNS], rows: &[[String; COLUMNS]]) -> Vec<String> {
    if rows.is_empty() {
        return Vec::new();
    }
    let shown = |cell: &str| if cell.is_empty() { "-".to_owned() } else { cell.to_owned() };
    let rows = rows.iter().map(|row| row.each_ref().map(|cell| shown(cell)));
    let all: Vec<[String; COLUMNS]> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    let width = |column: usize| all.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    let line = |row: &[String; COLUMNS]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    all.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let row = |a: &str, b: &str| [a.to_owned(), b.to_owned()];
        let rows = [row("i-1", "running"), row("", "é")];
        assert_eq!(lines(["ID", "STATE"], &rows), ["ID   STATE", "i-1  running", "-    é"]);
        assert!(lines(["ID"], &[]).is_empty());
    }
}
