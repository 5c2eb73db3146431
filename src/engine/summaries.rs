//! The summaries of evicted entries: reading them from memory, and putting them into a status.

use super::evict::summary_draft;
use super::{Engine, Inner};
use crate::entry::Timestamp;
use crate::error::Result;
use crate::overflow::{EvictedSummary, SummaryStatus};

impl Engine {
    /// All summaries of evicted entries, in the order in which they were made. Reads nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`](crate::Error::Closed).
    pub fn summaries(&self) -> Result<Vec<EvictedSummary>> {
        self.inner.check_open()?;
        Ok(self.inner.feed.summaries().into_iter().map(EvictedSummary::from).collect())
    }

    /// Puts summaries into another status, with the time of that; `decide` is asked of each, and
    /// must not use this store itself. Answers with how many it put. Each is a change of its own;
    /// when this returns `Ok`, all are durable.
    ///
    /// # Errors
    ///
    /// Those of [`Engine::store`]; some may have changed then.
    pub fn change_summaries(
        &self,
        decide: &mut dyn FnMut(&EvictedSummary) -> Option<SummaryStatus>,
    ) -> Result<u64> {
        self.inner.check_open()?;
        self.inner.change_summaries(decide)
    }
}

impl Inner {
    fn change_summaries(
        &self,
        decide: &mut dyn FnMut(&EvictedSummary) -> Option<SummaryStatus>,
    ) -> Result<u64> {
        let _turn = self.turn_of_summaries()?;
        let now = self.env.wall_ms();
        let mut drafts = Vec::new();
        for body in self.feed.summaries() {
            let mut summary = EvictedSummary::from(body);
            if let Some(status) = decide(&summary) {
                summary.put(status, Timestamp(now));
                drafts.push(summary_draft(&summary, now)?);
            }
        }
        let count = drafts.len() as u64;
        let written = self.carry_out(drafts, true);
        self.note_unsettled(&written);
        written.map(|()| count)
    }
}
