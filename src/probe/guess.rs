//! Which type and byte order a register looks like: the reading of a whole range that is most plausible together.
//!
//! Every way to read each place has a weight; the guess is the way through the range with the greatest sum, so that a float
//! claims both its registers and a neighbour is not read out of the middle of it. It is a guess: what a device means only its
//! manual says.

use std::collections::BTreeMap;

use super::range::Cells;
use crate::modbus::codec::decode;
use crate::modbus::spec::{ByteOrder, DataType};
use crate::sample::Value;

pub(super) const ORDERS: [ByteOrder; 4] = [ByteOrder::Abcd, ByteOrder::Cdab, ByteOrder::Badc, ByteOrder::Dcba];

/// What stands at an address, by the look of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) data: DataType,
    pub(super) order: ByteOrder,
}

/// Weights in tenths: only their order matters, and it was chosen by the cases that the tests name.
mod weight {
    pub(super) const FLOAT: u32 = 40;
    /// Few devices swap the bytes within a word.
    pub(super) const FLOAT_BYTES_SWAPPED: u32 = 15;
    /// The order in which most floats of the range look right: a device has one.
    pub(super) const SAME_ORDER: u32 = 25;
    /// 230.1 rather than 229.98372.
    pub(super) const FOUR_DIGITS: u32 = 20;
    pub(super) const SIX_DIGITS: u32 = 10;
    pub(super) const SMALL: u32 = 20;
    pub(super) const SMALL_NEGATIVE: u32 = 15;
    pub(super) const LARGE: u32 = 6;
    pub(super) const COUNTER: u32 = 30;
    pub(super) const NEGATIVE_PAIR: u32 = 37;
    /// Of each register of a text.
    pub(super) const TEXT: u32 = 45;
}

/// A float of a magnitude that quantities have.
const PLAUSIBLE: std::ops::RangeInclusive<f32> = 1e-3..=1e6;
/// Fewer registers of letters are chance.
const TEXT_REGISTERS_MIN: usize = 3;
/// Nameplates are shorter; keeps one long text from costing time that grows with its square.
const TEXT_REGISTERS_MAX: usize = 32;

/// The guess for each address at which a value begins. What is zero, or could be anything, has none.
pub(super) fn marks(cells: &Cells) -> BTreeMap<u16, Mark> {
    let mut marks = BTreeMap::new();
    for (first, words) in runs(cells) {
        let order = usual_order(&words);
        mark_run(first, &words, order, &mut marks);
    }
    marks
}

/// Stretches of addresses without a hole.
fn runs(cells: &Cells) -> Vec<(u16, Vec<u16>)> {
    let mut runs: Vec<(u16, Vec<u16>)> = Vec::new();
    let mut next = None;
    for (address, cell) in cells {
        let Ok(word) = cell else {
            next = None;
            continue;
        };
        match runs.last_mut() {
            Some((_, words)) if next == Some(*address) => words.push(*word),
            _ => runs.push((*address, vec![*word])),
        }
        next = address.checked_add(1);
    }
    runs
}

/// The order in which most pairs look like floats, where one stands out.
fn usual_order(words: &[u16]) -> Option<ByteOrder> {
    let count = |order| words.windows(2).filter(|pair| float(order, pair).is_some()).count();
    let counts = ORDERS.map(count);
    let most = counts.into_iter().max().filter(|most| *most >= 2)?;
    let mut best = ORDERS.into_iter().zip(counts).filter(|(_, count)| *count == most);
    match (best.next(), best.next()) {
        (Some((order, _)), None) => Some(order),
        _ => None,
    }
}

fn mark_run(first: u16, words: &[u16], usual: Option<ByteOrder>, marks: &mut BTreeMap<u16, Mark>) {
    // From the end: the best sum from each place on, and what begins there for it.
    let mut best: Vec<(u32, usize, Option<Mark>)> = vec![(0, 1, None); words.len() + 1];
    for place in (0..words.len()).rev() {
        let mut here = (best[place + 1].0, 1, None);
        for (weight, mark) in candidates(&words[place..], usual) {
            let length = usize::from(mark.data.registers());
            let sum = weight + best[place + length].0;
            if sum > here.0 {
                here = (sum, length, Some(mark));
            }
        }
        best[place] = here;
    }
    let mut place = 0;
    while place < words.len() {
        let (_, length, mark) = best[place];
        if let (Some(mark), Ok(offset)) = (mark, u16::try_from(place)) {
            marks.insert(first.saturating_add(offset), mark);
        }
        place += length;
    }
}

fn candidates(words: &[u16], usual: Option<ByteOrder>) -> Vec<(u32, Mark)> {
    let mut found = Vec::new();
    let mut add = |weight, data, order| found.push((weight, Mark { data, order }));
    match words[0] {
        0 => {}
        1..=9_999 => add(weight::SMALL, DataType::U16, ByteOrder::Abcd),
        // -9,999 to -1.
        0xD8F1..=0xFFFF => add(weight::SMALL_NEGATIVE, DataType::I16, ByteOrder::Abcd),
        10_000..=0xD8F0 => add(weight::LARGE, DataType::U16, ByteOrder::Abcd),
    }
    if let Some(pair) = words.get(..2) {
        for order in ORDERS {
            if let Some(weight) = float(order, pair) {
                let bonus = if usual == Some(order) { weight::SAME_ORDER } else { 0 };
                add(weight + bonus, DataType::F32, order);
            }
        }
        for (order, [high, low]) in [(ByteOrder::Abcd, [pair[0], pair[1]]), (ByteOrder::Cdab, [pair[1], pair[0]])] {
            match (high, low) {
                (1..=15, 10_000..) => add(weight::COUNTER, DataType::U32, order),
                (0xFFFF, 0x8000..) => add(weight::NEGATIVE_PAIR, DataType::I32, order),
                _ => {}
            }
        }
    }
    for (registers, length) in (1_u16..).zip(1..=text_length(words)) {
        if length >= TEXT_REGISTERS_MIN {
            add(weight::TEXT * u32::from(registers), DataType::Text { registers }, ByteOrder::Abcd);
        }
    }
    found
}

/// The weight of a pair as a float; `None` where it does not look like one.
fn float(order: ByteOrder, pair: &[u16]) -> Option<u32> {
    let Ok(Value::F32(number)) = decode(DataType::F32, order, pair) else { return None };
    if !PLAUSIBLE.contains(&number.abs()) {
        return None;
    }
    let base = match order {
        ByteOrder::Abcd | ByteOrder::Cdab => weight::FLOAT,
        // Small integers side by side look like floats with swapped bytes.
        ByteOrder::Badc | ByteOrder::Dcba if pair.iter().any(|word| *word < 0x100) => return None,
        ByteOrder::Badc | ByteOrder::Dcba => weight::FLOAT_BYTES_SWAPPED,
    };
    let digits = match significant_digits(number) {
        0..=4 => weight::FOUR_DIGITS,
        5 | 6 => weight::SIX_DIGITS,
        _ => 0,
    };
    Some(base + digits)
}

/// Digits of the shortest decimal that reads back as the same float.
fn significant_digits(number: f32) -> usize {
    let text = format!("{number:e}");
    let mantissa = text.split('e').next().unwrap_or("");
    mantissa.bytes().filter(u8::is_ascii_digit).count()
}

/// How many registers from here on hold text, up to its end.
fn text_length(words: &[u16]) -> usize {
    let (mut length, mut letters, mut others) = (0, 0_usize, 0_usize);
    for word in words.iter().take(TEXT_REGISTERS_MAX) {
        let [high, low] = word.to_be_bytes();
        let fits = |byte: u8| matches!(byte, b' '..=b'~');
        if !fits(high) || !(fits(low) || low == 0) {
            break;
        }
        length += 1;
        for byte in [high, low] {
            if byte.is_ascii_alphanumeric() || matches!(byte, b' ' | b'-' | b'.' | b'_' | b'/') {
                letters += 1;
            } else if byte != 0 {
                others += 1;
            }
        }
        if low == 0 {
            break;
        }
    }
    let lively = words.iter().take(length).any(|word| word.to_be_bytes().iter().any(u8::is_ascii_alphabetic));
    if lively && letters >= others * 4 { length } else { 0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::modbus::codec::encode;

    fn guess(words: &[u16]) -> Vec<(u16, DataType, ByteOrder)> {
        let cells: Cells = (100..).zip(words.iter().map(|word| Ok(*word))).collect();
        marks(&cells).into_iter().map(|(address, mark)| (address, mark.data, mark.order)).collect()
    }

    fn floats(order: ByteOrder, numbers: &[f32]) -> Vec<u16> {
        numbers.iter().flat_map(|number| encode(DataType::F32, order, &Value::F32(*number)).unwrap()).collect()
    }

    #[test]
    fn a_meter_s_floats_are_found_in_each_order() {
        for order in ORDERS {
            let found = guess(&floats(order, &[230.1, 49.98, 5.123, -1523.7, 0.97]));
            let wanted: Vec<_> = (0..5).map(|place| (100 + place * 2, DataType::F32, order)).collect();
            assert_eq!(found, wanted, "{order:?}");
        }
    }

    #[test]
    fn floats_with_all_their_digits_are_floats_too() {
        let found = guess(&floats(ByteOrder::Cdab, &[229.983_72, 4.871_234, 1_117.372_6]));
        assert_eq!(found.iter().map(|one| (one.1, one.2)).collect::<Vec<_>>(), [(DataType::F32, ByteOrder::Cdab); 3]);
    }

    #[test]
    fn small_integers_stay_integers_even_where_swapped_bytes_would_be_a_float() {
        let kinds = |words: &[u16]| guess(words).into_iter().map(|one| (one.0, one.1)).collect::<Vec<_>>();
        assert_eq!(kinds(&[65, 0, 70, 0]), [(100, DataType::U16), (102, DataType::U16)]);
        assert_eq!(kinds(&[2301, 498, 0xFFF6]), [(100, DataType::U16), (101, DataType::U16), (102, DataType::I16)]);
    }

    #[test]
    fn wide_integers_are_found_in_both_word_orders() {
        assert_eq!(guess(&[0x0001, 0x86A0]), [(100, DataType::U32, ByteOrder::Abcd)]);
        assert_eq!(guess(&[0x86A0, 0x0001]), [(100, DataType::U32, ByteOrder::Cdab)]);
        assert_eq!(guess(&[0xFFFF, 0xFF38]), [(100, DataType::I32, ByteOrder::Abcd)]);
    }

    #[test]
    fn a_nameplate_is_one_text() {
        let words = [0x5344, 0x4D31, 0x3230, 0x2D4D, 0x0000];
        assert_eq!(guess(&words), [(100, DataType::Text { registers: 4 }, ByteOrder::Abcd)]);
    }

    #[test]
    fn zeros_and_holes_say_nothing_and_a_float_does_not_reach_over_a_hole() {
        assert_eq!(guess(&[0, 0, 0]), []);
        let [high, low] = [0x4366, 0x199A];
        let cells = Cells::from([(0, Ok(high)), (1, Err(crate::sample::Fault::IllegalAddress)), (2, Ok(low))]);
        assert!(marks(&cells).values().all(|mark| mark.data == DataType::U16));
    }

    proptest! {
        #[test]
        fn marks_never_overlap_and_stay_in_what_was_read(
            cells in prop::collection::btree_map(any::<u16>(), any::<u16>(), 0..60), dense in prop::collection::vec(any::<u16>(), 0..60),
        ) {
            let sparse: Cells = cells.into_iter().map(|(address, word)| (address, Ok(word))).collect();
            let dense: Cells = (65_476..=u16::MAX).zip(dense.into_iter().map(Ok)).collect();
            for cells in [sparse, dense] {
                let mut free = 0_u32;
                for (address, mark) in marks(&cells) {
                    prop_assert!(u32::from(address) >= free);
                    free = u32::from(address) + u32::from(mark.data.registers());
                    for at in u32::from(address)..free {
                        prop_assert!(u16::try_from(at).is_ok_and(|at| cells.contains_key(&at)));
                    }
                }
            }
        }
    }
}
