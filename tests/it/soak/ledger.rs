//! What must be there: the account of all that was acknowledged, closed after each kill.
//!
//! What is found is compared with what was there after the kill before and with what the life between
//! said. `check` answers with all that does not fit, so that the controls can see it speak.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};

use deadletter::Accounting;
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};

use super::life::Life;
use super::writer::IN_FLIGHT_MAX;

/// What a store holds after a kill.
#[derive(Debug, Clone)]
pub struct Found {
    pub live: RoaringBitmap,
    pub pending: RoaringBitmap,
    pub resolved: RoaringBitmap,
    pub accounting: Accounting,
}

/// How things stood when they were checked last.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    /// How many lives there were.
    pub lives: u64,
    pub captured: u64,
    pub purged: u64,
    pub evicted: u64,
    /// The highest id that was ever seen.
    pub last: u32,
    #[serde(skip)]
    pub live: RoaringBitmap,
    /// Of these it was said that they are resolved.
    #[serde(skip)]
    pub resolved: RoaringBitmap,
}

fn path(dir: &Path) -> PathBuf {
    dir.join("ledger.bin")
}

impl Ledger {
    /// As an earlier run left it, else empty.
    pub fn load(dir: &Path) -> Self {
        let Ok(file) = File::open(path(dir)) else { return Self::default() };
        let mut file = BufReader::new(file);
        let mut head = String::new();
        file.read_line(&mut head).unwrap();
        let live = RoaringBitmap::deserialize_from(&mut file).unwrap();
        let resolved = RoaringBitmap::deserialize_from(&mut file).unwrap();
        Self { live, resolved, ..serde_json::from_str(&head).unwrap() }
    }

    pub fn save(&self, dir: &Path) {
        let mut bytes = serde_json::to_vec(self).unwrap();
        bytes.write_all(b"\n").unwrap();
        self.live.serialize_into(&mut bytes).unwrap();
        self.resolved.serialize_into(&mut bytes).unwrap();
        let new = dir.join("ledger.tmp");
        fs::write(&new, bytes).unwrap();
        fs::rename(new, path(dir)).unwrap();
    }

    /// All that does not fit together.
    pub fn check(&self, life: &Life, found: &Found) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut expect = |holds: bool, text: String| {
            if !holds {
                wrong.push(text);
            }
        };
        let Found { live, pending, resolved, accounting } = found;
        let acknowledged = life.acknowledged();
        let Accounting { captured, purged, evicted, lost, .. } = *accounting;
        let sums = captured == accounting.live + purged + evicted + lost;
        expect(
            sums && lost == 0 && accounting.live == live.len(),
            format!("{} entries are listed, but {accounting:?}", live.len()),
        );
        let (new_captured, new_purged, new_evicted) =
            (captured - self.captured, purged - self.purged, evicted - self.evicted);

        // None is invented, and none comes back.
        let old_found: RoaringBitmap = live.iter().take_while(|id| *id <= self.last).collect();
        let back = &old_found - &self.live;
        expect(back.is_empty(), format!("came back or were invented: {back:?}"));
        let unsaid = &(live - &old_found) - &acknowledged;
        let in_flight = new_captured.wrapping_sub(acknowledged.len());
        expect(
            in_flight >= unsaid.len() && in_flight <= IN_FLIGHT_MAX,
            format!(
                "captured {new_captured}, acknowledged {}, found beside them {}",
                acknowledged.len(),
                unsaid.len()
            ),
        );

        // Whatever was there is there, or went in one of two ways, and nothing else went.
        let missing = &(&(&self.live | &acknowledged) - live) - &life.purging;
        expect(
            missing.len() <= new_evicted,
            format!("{} are missing and {new_evicted} were evicted: {missing:?}", missing.len()),
        );
        let gone = self.live.len() + new_captured - live.len();
        expect(
            gone == new_purged + new_evicted,
            format!("{gone} went, but purged {new_purged} and evicted {new_evicted}"),
        );
        let purged_and_there = &life.purged & live;
        expect(purged_and_there.is_empty(), format!("purged and there: {purged_and_there:?}"));
        let purges = life.purged_count..=life.purging.len();
        expect(
            purges.contains(&new_purged),
            format!("purged {new_purged}, and the writer says {purges:?}"),
        );

        // What was resolved durably stays it.
        let undone = &(&self.resolved | &life.resolved) & pending;
        expect(undone.is_empty(), format!("resolved and pending: {undone:?}"));
        let early = (resolved - &self.resolved) - &life.resolved;
        expect(
            early.len() <= super::writer::STEP as u64,
            format!("{} are resolved of which nobody said so", early.len()),
        );
        wrong
    }

    /// Closes the account of a life.
    pub fn advance(&mut self, life: &Life, found: &Found) {
        self.lives += 1;
        let Accounting { captured, purged, evicted, .. } = found.accounting;
        (self.captured, self.purged, self.evicted) = (captured, purged, evicted);
        let last_said = life.acks.last().map_or(0, |ack| ack.first + ack.count - 1);
        let last_found = found.live.max().unwrap_or(0);
        self.last = self.last.max(last_said).max(last_found);
        self.live.clone_from(&found.live);
        self.resolved |= &life.resolved;
        self.resolved |= &found.resolved;
        self.resolved &= &found.live;
    }
}

fn ids(ids: &[u32]) -> RoaringBitmap {
    ids.iter().copied().collect()
}

/// A store in which 5 of 8 are left, and a life that captured the last three, resolved one, purged
/// two and saw one evicted.
fn sound() -> (Ledger, String, Found) {
    let ledger =
        Ledger { lives: 1, captured: 5, last: 5, live: ids(&[1, 2, 3, 4, 5]), ..Ledger::default() };
    let lines = "ack 11 3 0 0 300\nresolved 4-5\npurging 1-2\npurged 2 1-2\n";
    let mut accounting = Accounting::default();
    (accounting.captured, accounting.live) = (8, 5);
    (accounting.purged, accounting.evicted) = (2, 1);
    let found = Found {
        live: ids(&[4, 5, 11, 12, 13]),
        pending: ids(&[11, 12, 13]),
        resolved: ids(&[4, 5]),
        accounting,
    };
    (ledger, lines.to_owned(), found)
}

fn check_wrong(change: impl FnOnce(&mut Ledger, &mut String, &mut Found), wanted: &str) {
    let (mut ledger, mut lines, mut found) = sound();
    change(&mut ledger, &mut lines, &mut found);
    let wrong = ledger.check(&Life::parse(&lines), &found);
    assert!(wrong.iter().any(|text| text.contains(wanted)), "{wrong:?} does not say: {wanted}");
}

#[test]
fn a_sound_life_closes_without_a_word() {
    let (mut ledger, lines, found) = sound();
    let life = Life::parse(&lines);
    assert_eq!(ledger.check(&life, &found), [""; 0]);
    ledger.advance(&life, &found);
    assert_eq!((ledger.lives, ledger.captured, ledger.last), (2, 8, 13));
    assert_eq!(ledger.resolved, ids(&[4, 5]));
    let dir = tempfile::tempdir().unwrap();
    ledger.save(dir.path());
    assert_eq!(Ledger::load(dir.path()), ledger);
}

/// The controls: each is something that a store must never do.
#[test]
fn whatever_does_not_fit_is_told() {
    check_wrong(|_, lines, _| lines.push_str("ack 20 1 0 3 10\n"), "are missing");
    check_wrong(|_, lines, _| lines.push_str("ack 20 1 0 3 10\n"), "acknowledged 4");
    check_wrong(|_, lines, _| lines.push_str("purged 1 4-4\n"), "purged and there");
    check_wrong(|_, lines, _| lines.push_str("resolved 11-11\n"), "resolved and pending");
    check_wrong(|ledger, _, _| assert!(ledger.live.remove(4)), "came back");
    check_wrong(|_, _, found| assert!(found.live.remove(12)), "are listed");
    check_wrong(|_, _, found| found.accounting.lost = 1, "are listed");
    check_wrong(
        |_, _, found| (found.accounting.evicted, found.accounting.purged) = (3, 0),
        "purged 0",
    );
    check_wrong(|_, _, found| found.accounting.captured = 1000, "captured 995");
    check_wrong(
        |_, _, found| {
            found.live.remove(5);
            found.accounting.live = 4;
            found.accounting.purged = 3;
        },
        "1 were evicted",
    );
}
