//! Which segments to drop, to rewrite or to merge: a pure choice over what they weigh.
//!
//! A segment of which nothing is alive is dropped. One is rewritten when what is dead or can be
//! compressed is half of it, or when bytes of removed entries are in it for too long. Neighbors of
//! which little is left are merged. The segment before the active one stays listed, since it stands
//! in for a segment set that damage takes.

/// What a segment that takes no more records weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Weight {
    /// The segment.
    pub segment: u64,
    /// The length of its file.
    pub file_bytes: u64,
    /// The bytes of its records that are alive, with their rows; 0 only when there are none.
    pub live_bytes: u64,
    /// The bytes that the file would have, written anew without compressing.
    pub needed_bytes: u64,
    /// How many of those a rewrite would save by compressing them, about.
    pub compressible_bytes: u64,
    /// Since when it holds bytes of entries that were removed, in milliseconds since 1970; none when
    /// it holds no such bytes.
    pub erasable_since: Option<u64>,
    /// Whether the active segment comes next.
    pub is_last: bool,
    /// Whether it cannot go into one file with others: this build cannot read what is compressed
    /// in it.
    pub is_alone: bool,
}

/// What the choice depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rules {
    /// Now, in milliseconds since 1970.
    pub now_ms: u64,
    /// How long bytes of removed entries may stay; 0 means not at all.
    pub erase_within_ms: u64,
    /// The size of a segment.
    pub segment_bytes: u64,
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Nothing.
    Rest,
    /// This segment holds nothing alive.
    Drop(u64),
    /// These neighbors go into one new file.
    Rewrite(Vec<u64>),
}

/// A file that is not much longer is not worth a rewrite.
const SAVED_BYTES_MIN: u64 = 4096;

impl Weight {
    /// Bytes that a rewrite would give back.
    fn garbage_bytes(&self) -> u64 {
        let needed = self.needed_bytes.saturating_sub(self.compressible_bytes);
        self.file_bytes.saturating_sub(needed)
    }

    pub fn is_wasteful(&self) -> bool {
        let garbage = self.garbage_bytes();
        garbage >= SAVED_BYTES_MIN && garbage * 2 >= self.file_bytes
    }

    /// A time of the future was written by a clock that was wrong; to wait for it might take years.
    fn must_erase(&self, rules: &Rules) -> bool {
        self.erasable_since.is_some_and(|since| {
            since > rules.now_ms || since.saturating_add(rules.erase_within_ms) <= rules.now_ms
        })
    }
}

/// Decides what to do next, given all segments but the active one by rising number.
pub(crate) fn plan(weights: &[Weight], rules: &Rules) -> Choice {
    let empty = weights.iter().find(|weight| weight.live_bytes == 0 && !weight.is_last);
    if let Some(weight) = empty {
        return Choice::Drop(weight.segment);
    }
    let due = weights.iter().filter(|weight| weight.must_erase(rules));
    if let Some(weight) = due.min_by_key(|weight| weight.erasable_since) {
        return Choice::Rewrite(vec![weight.segment]);
    }
    let wasteful = weights.iter().filter(|weight| weight.is_wasteful());
    if let Some(weight) = wasteful.max_by_key(|weight| weight.garbage_bytes()) {
        return Choice::Rewrite(vec![weight.segment]);
    }
    mergeable(weights, rules).map_or(Choice::Rest, Choice::Rewrite)
}

/// When bytes of removed entries must be gone next, in milliseconds since 1970.
pub(crate) fn erase_due(weights: &[Weight], rules: &Rules) -> Option<u64> {
    let since = weights.iter().filter_map(|weight| weight.erasable_since).min()?;
    Some(since.saturating_add(rules.erase_within_ms))
}

/// The first run of neighbors under a quarter of a segment each that fit into one together.
fn mergeable(weights: &[Weight], rules: &Rules) -> Option<Vec<u64>> {
    let small = |weight: &Weight| {
        let stays = weight.is_last || weight.is_alone;
        weight.file_bytes < rules.segment_bytes / 4 && !stays
    };
    for run in weights.split(|weight| !small(weight)) {
        let mut bytes = 0;
        let fits = run.iter().take_while(|weight| {
            bytes += weight.file_bytes;
            bytes <= rules.segment_bytes
        });
        let numbers: Vec<u64> = fits.map(|weight| weight.segment).collect();
        if numbers.len() > 1 {
            return Some(numbers);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 1 << 20;
    const RULES: Rules = Rules { now_ms: 1000, erase_within_ms: 100, segment_bytes: SEGMENT };

    fn weight(segment: u64, file_bytes: u64, live_bytes: u64) -> Weight {
        Weight {
            segment,
            file_bytes,
            live_bytes,
            needed_bytes: live_bytes,
            compressible_bytes: 0,
            erasable_since: None,
            is_last: false,
            is_alone: false,
        }
    }

    fn check(weights: &[Weight], wanted: &Choice) {
        assert_eq!(&plan(weights, &RULES), wanted, "{weights:?}");
    }

    #[test]
    fn what_is_full_of_life_is_left_alone() {
        check(&[], &Choice::Rest);
        check(&[weight(1, SEGMENT, SEGMENT), weight(2, SEGMENT, SEGMENT / 2 + 1)], &Choice::Rest);
    }

    #[test]
    fn an_empty_segment_is_dropped_first_unless_it_is_the_last() {
        let mut last = weight(3, SEGMENT, 0);
        check(&[weight(1, SEGMENT, 1), weight(2, SEGMENT, 0), last], &Choice::Drop(2));
        last.is_last = true;
        check(&[last], &Choice::Rewrite(vec![3]));
    }

    #[test]
    fn the_most_wasteful_is_rewritten() {
        let worst = weight(2, SEGMENT, SEGMENT / 4);
        check(&[weight(1, SEGMENT, SEGMENT / 2), worst], &Choice::Rewrite(vec![2]));
        let compressible =
            Weight { compressible_bytes: SEGMENT / 2, ..weight(1, SEGMENT, SEGMENT) };
        check(&[compressible], &Choice::Rewrite(vec![1]));
        check(&[weight(1, SEGMENT, SEGMENT / 2 + 1)], &Choice::Rest);
    }

    #[test]
    fn removed_bytes_do_not_stay_longer_than_allowed() {
        let since = |since| Weight { erasable_since: Some(since), ..weight(1, SEGMENT, SEGMENT) };
        check(&[since(901)], &Choice::Rest);
        check(&[since(900)], &Choice::Rewrite(vec![1]));
        check(&[since(1001)], &Choice::Rewrite(vec![1]));
        assert_eq!(erase_due(&[since(901), since(950)], &RULES), Some(1001));
        assert_eq!(erase_due(&[weight(1, SEGMENT, SEGMENT)], &RULES), None);
        let older = Weight { segment: 2, ..since(5) };
        check(&[since(900), older], &Choice::Rewrite(vec![2]));
    }

    #[test]
    fn small_neighbors_are_merged() {
        let small = |segment| weight(segment, SEGMENT / 5, SEGMENT / 5);
        let large = |segment| weight(segment, SEGMENT, SEGMENT);
        check(&[small(1), large(2), small(3)], &Choice::Rest);
        check(&[large(1), small(2), small(3), large(4)], &Choice::Rewrite(vec![2, 3]));
        let many: Vec<Weight> = (1..=7).map(small).collect();
        check(&many, &Choice::Rewrite((1..=5).collect()));
        let mut last = small(2);
        last.is_last = true;
        check(&[small(1), last], &Choice::Rest);
        let alone = Weight { is_alone: true, ..small(2) };
        check(&[small(1), alone, small(3)], &Choice::Rest);
    }
}
