//! Formats tables for the width of a terminal, without breaking a word.
//!
//! If all columns fit, each row is one line. Otherwise the first columns that fit form the table, and the remaining values
//! of a row follow on indented lines, each with its heading. A name that is wider than half the terminal has its own line
//! above its row, so that one long name does not displace all columns. A value is never broken, so that a name or
//! fingerprint can be copied as a whole.

use unicode_width::UnicodeWidthStr as _;

/// Columns of the terminal between two values.
const GAP: usize = 2;
/// Indentation of the values that do not fit into the table.
const INDENT: usize = 4;
/// The text for an absent value.
const NONE: &str = "-";

/// The heading and alignment of a column.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    heading: &'static str,
    right: bool,
}

/// A column of text.
pub const fn text(heading: &'static str) -> Column {
    Column { heading, right: false }
}

/// A column of numbers, flushed right.
pub const fn number(heading: &'static str) -> Column {
    Column { heading, right: true }
}

/// The lines of a table with its headings. Each row has one value for each column. `width` is the width of the terminal;
/// without it each row is one line.
pub fn render(columns: &[Column], rows: &[Vec<String>], width: Option<usize>) -> Vec<String> {
    let widest = |at: usize, most: usize| {
        let values = rows.iter().map(|row| row[at].width()).filter(|width| *width <= most);
        values.fold(columns[at].heading.width(), usize::max)
    };
    let mut widths: Vec<usize> = (0..columns.len()).map(|at| widest(at, usize::MAX)).collect();
    if let Some(width) = width
        && widths.iter().sum::<usize>() + GAP * (columns.len() - 1) > width
    {
        widths[0] = widest(0, width / 2);
    }
    let ends = widths.iter().scan(0, |end, width| {
        *end += width + GAP;
        Some(*end - GAP)
    });
    let fitting = ends.take_while(|end| width.is_none_or(|width| *end <= width)).count().max(1);
    let line = |values: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for ((value, column), width) in values.zip(columns).zip(&widths).take(fitting) {
            let fill = " ".repeat(width - value.width());
            line.extend(if column.right { [&fill, value] } else { [value, &fill] });
            line.push_str(&" ".repeat(GAP));
        }
        line.trim_end().to_owned()
    };
    let mut lines = vec![line(&mut columns.iter().map(|column| column.heading))];
    for row in rows {
        let mut values = row.clone();
        if row[0].width() > widths[0] {
            lines.push(std::mem::take(&mut values[0]));
        }
        if fitting > 1 || !values[0].is_empty() {
            lines.push(line(&mut values.iter().map(String::as_str)));
        }
        let rest = columns[fitting..].iter().zip(&row[fitting..]).filter(|(_, value)| *value != NONE);
        let details = rest.map(|(column, value)| format!("{} {value}", column.heading.to_lowercase()));
        lines.extend(packed(details, width.unwrap_or(usize::MAX)));
    }
    lines
}

/// Distributes texts over indented lines, as many per line as fit.
fn packed(texts: impl Iterator<Item = String>, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for text in texts {
        match lines.last_mut() {
            Some(line) if line.width() + GAP + text.width() <= width => {
                line.push_str(&" ".repeat(GAP));
                line.push_str(&text);
            }
            _ => lines.push(format!("{}{text}", " ".repeat(INDENT))),
        }
    }
    lines
}

/// Width of the heading of a [`fact`].
const HEADING: usize = 16;

/// A heading followed by a text. A text that does not fit continues on the next line, below its own start.
pub fn fact(heading: &str, text: &str, width: Option<usize>) -> Vec<String> {
    wrapped(&format!("{heading:HEADING$}"), text, width)
}

/// A text after a heading, wrapped between words. A word that is longer than a line has its own line.
pub fn wrapped(heading: &str, text: &str, width: Option<usize>) -> Vec<String> {
    let indent = heading.width();
    let mut lines = vec![heading.to_owned()];
    for word in text.split(' ') {
        let last = lines.last_mut().expect("there is a first line");
        if last.width() == indent {
            last.push_str(word);
        } else if width.is_none_or(|width| last.width() + 1 + word.width() <= width) {
            last.push(' ');
            last.push_str(word);
        } else {
            lines.push(format!("{}{word}", " ".repeat(indent)));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 4] = [text("MODEL"), number("SIZE"), text("PUBLISHER"), text("PATH")];

    fn rows() -> Vec<Vec<String>> {
        let row = |cells: [&str; 4]| cells.map(str::to_owned).to_vec();
        vec![
            row(["acme/minilm", "9 MiB", "r5fk-b70b-psbb-5vew", "/home/u/.silmaril/models/acme/minilm"]),
            row(["acme/模型", "129 MiB", "-", "-"]),
        ]
    }

    #[test]
    fn rows_that_fit_are_one_line() {
        for width in [None, Some(200)] {
            assert_eq!(
                render(&COLUMNS, &rows(), width),
                [
                    "MODEL           SIZE  PUBLISHER            PATH",
                    "acme/minilm    9 MiB  r5fk-b70b-psbb-5vew  /home/u/.silmaril/models/acme/minilm",
                    "acme/模型    129 MiB  -                    -",
                ]
            );
        }
    }

    #[test]
    fn wrapped_text_continues_below_its_start() {
        let text = "acme/minilm: published by r5fk-b70b-psbb-5vew, 9fqa-x7k2-aaaa-bbbb";
        assert_eq!(
            fact("disputed", text, Some(48)),
            [
                "disputed        acme/minilm: published by",
                "                r5fk-b70b-psbb-5vew,",
                "                9fqa-x7k2-aaaa-bbbb",
            ]
        );
        assert_eq!(fact("disputed", text, None), [format!("disputed        {text}")]);
        assert_eq!(wrapped("", "a bb ccc", Some(3)), ["a", "bb", "ccc"]);
    }

    #[test]
    fn values_that_do_not_fit_follow_their_row() {
        assert_eq!(
            render(&COLUMNS, &rows(), Some(60)),
            [
                "MODEL           SIZE  PUBLISHER",
                "acme/minilm    9 MiB  r5fk-b70b-psbb-5vew",
                "    path /home/u/.silmaril/models/acme/minilm",
                "acme/模型    129 MiB  -",
            ]
        );
        assert_eq!(
            render(&COLUMNS, &rows(), Some(5)),
            [
                "MODEL",
                "acme/minilm",
                "    size 9 MiB",
                "    publisher r5fk-b70b-psbb-5vew",
                "    path /home/u/.silmaril/models/acme/minilm",
                "acme/模型",
                "    size 129 MiB",
            ]
        );
    }
}
