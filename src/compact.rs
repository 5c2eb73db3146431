//! Which segments to drop, to rewrite or to merge: a pure choice over what they weigh.
//!
//! A segment of which nothing is alive is dropped. One is rewritten when what is dead or can be
//! compressed is half of it, less when space is short, or when bytes of removed entries are in it for
//! too long. Neighbors of which little is left are merged. When there is no other way to make room,
//! changes go by being folded into their entries. The segment before the active one stays listed,
//! since it stands in for a segment set that damage takes.

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
    /// The bytes of changes in other segments that a rewrite would take in, so that these go.
    pub folded_bytes: u64,
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
    /// One byte in so many must be garbage before a segment is rewritten for it.
    pub garbage_share: u64,
    /// Whether a rewrite is worth it only because changes elsewhere become dead by it.
    pub folds: bool,
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

/// A segment is worth a rewrite when one part in so many of it is dead.
pub(crate) const GARBAGE_SHARE: u64 = 2;
/// A file that is not much longer is not worth a rewrite.
const SAVED_BYTES_MIN: u64 = 4096;

impl Weight {
    /// Bytes that a rewrite would give back.
    fn garbage_bytes(&self) -> u64 {
        let needed = self.needed_bytes.saturating_sub(self.compressible_bytes);
        self.file_bytes.saturating_sub(needed)
    }

    pub fn is_wasteful(&self, garbage_share: u64) -> bool {
        let garbage = self.garbage_bytes();
        let share = garbage.saturating_mul(garbage_share);
        garbage >= SAVED_BYTES_MIN && share >= self.file_bytes
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
    let wasteful = weights.iter().filter(|weight| weight.is_wasteful(rules.garbage_share));
    if let Some(weight) = wasteful.max_by_key(|weight| weight.garbage_bytes()) {
        return Choice::Rewrite(vec![weight.segment]);
    }
    let folded = || foldable(weights).filter(|_| rules.folds).map(|segment| vec![segment]);
    mergeable(weights, rules).or_else(folded).map_or(Choice::Rest, Choice::Rewrite)
}

/// The segment that takes in most changes.
fn foldable(weights: &[Weight]) -> Option<u64> {
    let most = weights.iter().max_by_key(|weight| weight.folded_bytes)?;
    (most.folded_bytes >= SAVED_BYTES_MIN).then_some(most.segment)
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
    const RULES: Rules = Rules {
        now_ms: 1000,
        erase_within_ms: 100,
        segment_bytes: SEGMENT,
        garbage_share: 2,
        folds: false,
    };

    fn weight(segment: u64, file_bytes: u64, live_bytes: u64) -> Weight {
        Weight {
            segment,
            file_bytes,
            live_bytes,
            needed_bytes: live_bytes,
            compressible_bytes: 0,
            folded_bytes: 0,
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
        let better = weight(1, SEGMENT, SEGMENT / 2 + 1);
        check(&[better], &Choice::Rest);
        let urgent = Rules { garbage_share: 4, ..RULES };
        assert_eq!(plan(&[better], &urgent), Choice::Rewrite(vec![1]));
        assert_eq!(plan(&[weight(1, SEGMENT, SEGMENT / 4 * 3 + 1)], &urgent), Choice::Rest);
        let any = Rules { garbage_share: u64::MAX, ..RULES };
        let hardly = weight(1, SEGMENT, SEGMENT - SAVED_BYTES_MIN);
        assert_eq!(plan(&[hardly], &any), Choice::Rewrite(vec![1]));
        assert_eq!(plan(&[weight(1, SEGMENT, SEGMENT - 1)], &any), Choice::Rest);
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
    fn changes_are_folded_last_and_only_when_that_is_wanted() {
        let folds =
            |segment, folded_bytes| Weight { folded_bytes, ..weight(segment, SEGMENT, SEGMENT) };
        let weights = [folds(1, SAVED_BYTES_MIN), folds(2, SEGMENT), folds(3, 0)];
        check(&weights, &Choice::Rest);
        let rules = Rules { folds: true, ..RULES };
        assert_eq!(plan(&weights, &rules), Choice::Rewrite(vec![2]));
        assert_eq!(plan(&weights[..1], &rules), Choice::Rewrite(vec![1]));
        assert_eq!(plan(&weights[2..], &rules), Choice::Rest);
        let wasteful = weight(4, SEGMENT, SEGMENT / 2);
        assert_eq!(plan(&[folds(2, SEGMENT), wasteful], &rules), Choice::Rewrite(vec![4]));
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
