//! Tables that fit a terminal without breaking a word.
//!
//! Where all columns fit side by side, a row is one line. Otherwise the first columns that fit form the table, and the
//! remaining values of each row follow on indented lines, each with its heading. A name of more than half the width has a
//! line of its own above its row, so that one long name does not push all columns out. A value is never broken: a name or
//! fingerprint can always be copied as a whole.

use unicode_width::UnicodeWidthStr as _;

/// Between two columns.
const GAP: usize = 2;
/// Before the values that do not fit into the table.
const INDENT: usize = 4;
/// A value that is not there.
const NONE: &str = "-";

/// A column.
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

/// The lines of a table with a heading. Each row has one value for each column. `width` is that of the terminal; without
/// one every row is one line.
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
            match column.right {
                true => line.extend([&fill, value]),
                false => line.extend([value, &fill]),
            }
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

/// Puts texts on indented lines, as many on each as fit.
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

/// Columns of the heading of a [`fact`].
const HEADING: usize = 16;

/// A heading and a text beside it, which continues below itself where it does not fit.
pub fn fact(heading: &str, text: &str, width: Option<usize>) -> Vec<String> {
    wrapped(&format!("{heading:HEADING$}"), text, width)
}

/// A text behind a heading, on as many lines as it needs. Words are not broken: one that is longer than a line has a line
/// of its own.
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
    fn rows_are_one_line_each_where_they_fit() {
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
    fn texts_continue_below_themselves() {
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
    fn values_that_do_not_fit_follow_their_row_unbroken() {
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
