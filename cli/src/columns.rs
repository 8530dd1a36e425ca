//! Tables of text.

/// Columns as wide as what is in them, two spaces apart; the last one ends where it ends. Control
/// characters of what others said are shown, not obeyed.
pub(crate) fn align<const N: usize>(table: &[[String; N]]) -> String {
    let clean = |text: &String| {
        text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect::<String>()
    };
    let table: Vec<Vec<String>> = table.iter().map(|row| row.iter().map(clean).collect()).collect();
    let width =
        |column: usize| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in &table {
        let cells = row.iter().zip(&widths);
        let line: Vec<String> = cells.map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_others_say_moves_the_cursor() {
        assert_eq!(
            align(&[["a\u{1b}[2J".to_owned(), "b\n".to_owned()]]),
            "a\u{fffd}[2J  b\u{fffd}\n"
        );
    }
}
