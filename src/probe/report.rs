//! What the probe prints: the table of values, and lines for a mapping file.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::guess::{Mark, ORDERS};
use super::range::Cells;
use crate::modbus::codec::decode;
use crate::modbus::spec::{ByteOrder, DataType, Table};
use crate::sample::{Fault, Value};

const PAIRS: [(&str, DataType); 3] = [("u32", DataType::U32), ("i32", DataType::I32), ("f32", DataType::F32)];

/// The key of a point in a table.
pub(super) fn key(table: Table) -> &'static str {
    match table {
        Table::Coil => "coil",
        Table::Discrete => "discrete",
        Table::Input => "input",
        Table::Holding => "holding",
    }
}

fn name(order: ByteOrder) -> &'static str {
    match order {
        ByteOrder::Abcd => "abcd",
        ByteOrder::Cdab => "cdab",
        ByteOrder::Badc => "badc",
        ByteOrder::Dcba => "dcba",
    }
}

/// A fault in the words of the specification, where it was the device's answer.
pub(super) fn fault(fault: Fault) -> String {
    match fault {
        Fault::IllegalAddress => "not there (illegal data address)".to_owned(),
        Fault::IllegalFunction => "the device has no such table (illegal function)".to_owned(),
        Fault::Timeout => "no answer".to_owned(),
        Fault::BadResponse => "what came was no answer".to_owned(),
        Fault::Disconnected
        | Fault::IllegalValue
        | Fault::DeviceFailure
        | Fault::Busy
        | Fault::Gateway
        | Fault::Exception(_)
        | Fault::BadValue
        | Fault::Stale
        | Fault::NotAvailable
        | Fault::Error => fault.to_string(),
    }
}

/// Bits, one a line.
pub(super) fn bits(cells: &Cells) -> String {
    let mut out = String::new();
    for (address, cell) in cells {
        // Writing to a String does not fail.
        let _ = match cell {
            Ok(bit) => writeln!(out, "{address:>5}  {bit}"),
            Err(reason) => writeln!(out, "{address:>5}  {}", fault(*reason)),
        };
    }
    out
}

/// Registers, one a line, in every type and byte order side by side; `*` stands before the one that looks right. Neighbours
/// with the same fault share a line.
pub(super) fn registers(cells: &Cells, marks: &BTreeMap<u16, Mark>) -> String {
    let mut rows = vec![head()];
    let mut faults: Vec<(u16, u16, Fault)> = Vec::new();
    let mut order = Vec::new();
    for (address, cell) in cells {
        match cell {
            Ok(word) => {
                order.push(Line::Row(rows.len()));
                rows.push(row(*address, *word, cells, marks.get(address)));
            }
            Err(reason) => match (order.last(), faults.last_mut()) {
                (Some(Line::Fault), Some((_, last, known)))
                    if known == reason && last.checked_add(1) == Some(*address) =>
                {
                    *last = *address;
                }
                _ => {
                    order.push(Line::Fault);
                    faults.push((*address, *address, *reason));
                }
            },
        }
    }
    if rows.len() > 1 {
        order.insert(0, Line::Row(0));
    }
    let columns = rows[0].len();
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(|text| text.chars().count()).max().unwrap_or(0))
        .collect();
    let mut faults = faults.into_iter();
    let mut out = String::new();
    for line in order {
        match line {
            Line::Row(place) => {
                let cells = rows[place].iter().zip(&widths).map(|(text, width)| format!("{text:>width$}"));
                out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
                out.push('\n');
            }
            Line::Fault => {
                if let Some((first, last, reason)) = faults.next() {
                    let range = if first == last { first.to_string() } else { format!("{first}..{last}") };
                    let _ = writeln!(out, "{range}: {}", fault(reason));
                }
            }
        }
    }
    out
}

enum Line {
    Row(usize),
    Fault,
}

fn head() -> Vec<String> {
    let mut head: Vec<String> = ["address", "hex", "u16", "i16"].map(str::to_owned).to_vec();
    for (kind, _) in PAIRS {
        head.extend(ORDERS.map(|order| format!("{kind} {}", name(order))));
    }
    head.push("text".to_owned());
    head
}

fn row(address: u16, word: u16, cells: &Cells, mark: Option<&Mark>) -> Vec<String> {
    let marked = |data, order| mark.is_some_and(|mark| *mark == Mark { data, order });
    let show = |data, order, words: &[u16]| {
        let star = if marked(data, order) { "*" } else { "" };
        format!("{star}{}", decode(data, order, words).map_or_else(|_| "-".to_owned(), |value| text(&value)))
    };
    let one = [word];
    let mut row = vec![address.to_string(), format!("{word:04X}")];
    row.extend([DataType::U16, DataType::I16].map(|data| show(data, ByteOrder::Abcd, &one)));
    let next = address.checked_add(1).and_then(|next| cells.get(&next));
    for (_, data) in PAIRS {
        row.extend(ORDERS.map(|order| match next {
            Some(Ok(second)) => show(data, order, &[word, *second]),
            Some(Err(_)) | None => "-".to_owned(),
        }));
    }
    row.push(match mark.map(|mark| mark.data) {
        Some(data @ DataType::Text { registers }) => {
            let words: Vec<u16> =
                cells.range(address..).take(usize::from(registers)).flat_map(|(_, cell)| *cell).collect();
            show(data, ByteOrder::Abcd, &words)
        }
        Some(_) | None => {
            let letter = |byte: u8| if (b' '..=b'~').contains(&byte) { char::from(byte) } else { '.' };
            format!("\"{}\"", word.to_be_bytes().map(letter).iter().collect::<String>())
        }
    });
    row
}

/// Short: floats with six digits, enough to be known again.
fn text(value: &Value) -> String {
    match value {
        Value::F32(number) if !number.is_finite() => number.to_string().to_lowercase(),
        Value::F32(number) if *number == 0.0 => "0".to_owned(),
        Value::F32(number) if (1e-4..1e7).contains(&number.abs()) => {
            let whole = number.abs().log10().floor();
            let decimals = (5.0 - whole).clamp(0.0, 9.0) as usize;
            let text = format!("{number:.decimals$}");
            if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
        }
        Value::F32(number) => format!("{number:.2e}"),
        Value::Bool(on) => u8::from(*on).to_string(),
        Value::Int(number) => number.to_string(),
        Value::Uint(number) => number.to_string(),
        Value::F64(number) => number.to_string(),
        Value::Text(text) => format!("{text:?}"),
    }
}

/// `[[modbus.device.point]]` tables for the marked registers.
pub(super) fn points(table: Table, marks: &BTreeMap<u16, Mark>) -> String {
    let mut out = String::new();
    for (address, mark) in marks {
        let (kind, length) = match mark.data {
            DataType::U16 => ("u16", None),
            DataType::I16 => ("i16", None),
            DataType::U32 => ("u32", None),
            DataType::I32 => ("i32", None),
            DataType::F32 => ("f32", None),
            DataType::Text { registers } => ("string", Some(registers)),
            DataType::Bool | DataType::U64 | DataType::I64 | DataType::F64 | DataType::Bcd16 | DataType::Bcd32 => {
                continue;
            }
        };
        point(&mut out, table, *address, kind);
        if let Some(registers) = length {
            let _ = writeln!(out, "length = {registers}");
        }
        if mark.order != ByteOrder::Abcd {
            let _ = writeln!(out, "order = \"{}\"", name(mark.order));
        }
    }
    out
}

/// `[[modbus.device.point]]` tables for the bits that could be read.
pub(super) fn bit_points(table: Table, cells: &Cells) -> String {
    let mut out = String::new();
    for address in cells.iter().filter(|(_, cell)| cell.is_ok()).map(|(address, _)| address) {
        point(&mut out, table, *address, "bool");
    }
    out
}

fn point(out: &mut String, table: Table, address: u16, kind: &str) {
    let key = key(table);
    let _ =
        write!(out, "\n[[modbus.device.point]]\nname = \"{key}-{address}\"\n{key} = {address}\ntype = \"{kind}\"\n");
}

#[cfg(test)]
mod tests {
    use super::super::guess::marks;
    use super::*;

    #[test]
    fn every_type_and_order_stands_in_one_line_and_the_likely_one_has_a_star() {
        let cells = Cells::from([
            (0, Ok(0x4366)),
            (1, Ok(0x199A)),
            (2, Err(Fault::IllegalAddress)),
            (3, Err(Fault::IllegalAddress)),
            (4, Ok(0xFFFE)),
        ]);
        let table = registers(&cells, &marks(&cells));
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 5, "{table}");
        assert_eq!(
            lines[0].split_whitespace().collect::<Vec<_>>().join(" "),
            "address hex u16 i16 u32 abcd u32 cdab u32 badc u32 dcba i32 abcd i32 cdab i32 badc i32 dcba \
             f32 abcd f32 cdab f32 badc f32 dcba text"
        );
        let first: Vec<&str> = lines[1].split_whitespace().collect();
        assert_eq!(first[..6], ["0", "4366", "17254", "17254", "1130764698", "429540198"], "{table}");
        assert_eq!(first[12], "*230.1", "{table}");
        assert_eq!(first.last(), Some(&"\"Cf\""));
        assert!(lines[2].split_whitespace().nth(5) == Some("-"), "{table}");
        assert_eq!(lines[3], "2..3: not there (illegal data address)");
        assert!(lines[4].contains("*-2"), "{table}");
    }

    #[test]
    fn the_points_are_a_mapping_s_own_lines() {
        let marks = BTreeMap::from([
            (7, Mark { data: DataType::F32, order: ByteOrder::Cdab }),
            (9, Mark { data: DataType::Text { registers: 4 }, order: ByteOrder::Abcd }),
        ]);
        assert_eq!(
            points(Table::Input, &marks),
            "\n[[modbus.device.point]]\nname = \"input-7\"\ninput = 7\ntype = \"f32\"\norder = \"cdab\"\n\
             \n[[modbus.device.point]]\nname = \"input-9\"\ninput = 9\ntype = \"string\"\nlength = 4\n"
        );
    }

    #[test]
    fn floats_are_short_and_can_be_told_apart() {
        for (number, shown) in [
            (230.1, "230.1"),
            (0.0, "0"),
            (1_234_567.0, "1234567"),
            (0.001, "0.001"),
            (2.5e-38, "2.50e-38"),
            (f32::NAN, "nan"),
        ] {
            assert_eq!(text(&Value::F32(number)), shown);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_registers_make_it_panic(words in proptest::collection::vec(proptest::num::u16::ANY, 0..40)) {
            let cells: Cells = (65_500..=u16::MAX).zip(words.into_iter().map(Ok)).collect();
            let marks = marks(&cells);
            let table = registers(&cells, &marks);
            proptest::prop_assert!(cells.is_empty() == table.is_empty());
            let _ = points(Table::Holding, &marks);
        }
    }
}
