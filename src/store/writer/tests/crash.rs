//! SIGKILL at random moments: the test binary runs itself as the victim.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use super::*;

const DIR: &str = "FIELDGATE_STORE_VICTIM";
const BATCH: u64 = 20;

/// Not a test by itself: commits and delivers until it is killed, and says so.
#[tokio::test]
async fn victim() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let mut opened = open(Path::new(&dir), boot(), Now::read()).unwrap();
    let mut out = std::io::stdout();
    let mut next = opened.next_seq;
    opened.handle.commit(Batch { ticket: 0, ops: vec![open_op(DEST, unbounded())] }).await.unwrap();
    loop {
        let ops = (next..next + BATCH).map(|seq| append(seq, 200, &[DEST], Durability::Acknowledged)).collect();
        opened.handle.commit(Batch { ticket: next, ops }).await.unwrap();
        committed(&mut opened.events, next).await;
        writeln!(out, "committed {next}").unwrap();
        if next.is_multiple_of(3) {
            // Said before it is done: from here on these may be gone.
            writeln!(out, "delivered {next}").unwrap();
            opened.handle.deliver(DEST, (next..next + BATCH / 2).collect()).await;
        }
        next += BATCH;
    }
}

#[test]
fn what_was_said_to_be_committed_survives_sigkill_at_any_moment() {
    let (dir, now) = (TempDir::new().unwrap(), Now::read());
    let (mut owed, mut maybe_gone) = (BTreeSet::new(), BTreeSet::new());
    for round in 0..20_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::writer::tests::crash::victim", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let wanted = 1 + fastrand::usize(..40);
        let mut seen = 0;
        for line in lines.map_while(Result::ok) {
            let mut words = line.split(' ');
            let (word, first) =
                (words.next().unwrap_or_default(), words.next().and_then(|word| word.parse::<Seq>().ok()));
            match (word, first) {
                ("committed", Some(first)) => owed.extend(first..first + BATCH),
                ("delivered", Some(first)) => maybe_gone.extend(first..first + BATCH / 2),
                _ => continue,
            }
            seen += 1;
            if seen == wanted {
                // What it says between this and its death is read as well.
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(seen >= wanted, "round {round}: the victim ended by itself");
        let mut engine = engine(dir.path(), now);
        let found = engine.read(query(DEST, None, Order::Oldest), now);
        assert!(found.iter().all(|stored| stored.message == message(stored.seq, 200)));
        let found: BTreeSet<Seq> = seqs(&found).into_iter().collect();
        let lost: Vec<_> = owed.iter().filter(|seq| !found.contains(seq) && !maybe_gone.contains(seq)).collect();
        assert!(lost.is_empty(), "round {round}: lost {lost:?}");
        assert!(engine.next_seq() > found.last().copied().unwrap_or(0));
        engine.close(now);
    }
}
