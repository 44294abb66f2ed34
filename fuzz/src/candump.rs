//! A recorded log, line by line, through the parser and through `replay`.

use fieldgate::can::candump::{Content, format_frame, parse_frame, parse_line};
use fieldgate::clock::Now;
use fieldgate::replay::Replay;

use super::mapping::vehicle;

const LINES_MAX: usize = 64;

pub fn run(data: &[u8]) {
    let mut replay = Replay::new(&vehicle(), Now::read().mono);
    let mut out = Vec::new();
    for line in data.split(|byte| *byte == b'\n').take(LINES_MAX) {
        if let Ok(text) = std::str::from_utf8(line) {
            if let Ok(entry) = parse_line(text)
                && let Content::Data(frame) = entry.content
            {
                let again = parse_frame(&format_frame(&frame));
                assert!(matches!(again, Ok(Content::Data(again)) if again.data() == frame.data()));
            }
            let _ = parse_frame(text);
        }
        let _ = replay.line(line);
        for _ in 0..1000 {
            if !replay.step(&mut out) {
                break;
            }
        }
    }
}
