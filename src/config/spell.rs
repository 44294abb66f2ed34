//! "Did you mean": the nearest of the known words.

/// Longer words are not compared: nobody mistypes them into a key.
const WORD_CHARS_MAX: usize = 64;

/// The known word that is at most a third of its letters away.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.chars().count() > WORD_CHARS_MAX {
        return None;
    }
    known
        .into_iter()
        .filter(|candidate| candidate.len() <= 4 * WORD_CHARS_MAX)
        .filter_map(|candidate| {
            let far = distance(word, candidate);
            (far <= (candidate.chars().count().max(word.chars().count()) / 3).max(1)).then_some((far, candidate))
        })
        .min_by_key(|(far, _)| *far)
        .map(|(_, candidate)| candidate)
}

/// ` (did you mean …?)`, or nothing.
pub(super) fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, known).map_or_else(String::new, |near| format!(" (did you mean `{near}`?)"))
}

/// Insertions, deletions, replacements and swaps of neighbours from `a` to `b` (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_finds_its_word_and_a_foreign_word_finds_none() {
        let known = ["baud", "parity", "interval_ms", "name"];
        assert_eq!(nearest("buad", known), Some("baud"));
        assert_eq!(nearest("intervall_ms", known), Some("interval_ms"));
        assert_eq!(nearest("interval", known), Some("interval_ms"));
        assert_eq!(nearest("colour", known), None);
        assert_eq!(nearest("", known), None);
    }
}
