//! The service on the user's store, for the verbs that replay, resolve and maintain.

use std::sync::Arc;

use anyhow::Result;
use deadletter::{Act, Background, DlqService, Engine, EntryId, Error, Page};

use crate::args::EntryName;
use crate::settings::{Context, Work};

impl Context {
    /// Who acts, and nothing else.
    pub fn act(&self) -> Act {
        Act { actor: self.actor.clone(), ..Act::default() }
    }

    /// Runs a verb on the service over the store, opened for writing and closed in order.
    pub fn with_service(&self, run: impl FnOnce(&DlqService, &Act) -> Result<()>) -> Result<()> {
        self.with_service_for(Work::Once, run)
    }

    /// As [`Context::with_service`], for this kind of work.
    pub fn with_service_for(
        &self,
        work: Work,
        run: impl FnOnce(&DlqService, &Act) -> Result<()>,
    ) -> Result<()> {
        self.require_store()?;
        let engine = self.open_writer(work)?;
        let service = self.service_over(engine.clone());
        let done = run(&service, &self.act());
        let closed = engine.close();
        self.warn_of_damage(&engine);
        done?;
        Ok(closed?)
    }

    /// The service over the store, opened for reading beside whoever writes.
    pub fn reading_service(&self) -> Result<DlqService> {
        let engine = self.open_reader()?;
        let service = self.service_over(engine.clone());
        engine.wait_ready()?;
        self.warn_of_damage(&engine);
        Ok(service)
    }

    /// The id of an entry as the service takes it.
    pub fn id_of(&self, service: &DlqService, name: EntryName) -> Result<EntryId> {
        match name {
            EntryName::Id(id) => Ok(id),
            EntryName::Last => {
                let page = Page { limit: 1, ..Page::default() };
                let newest = service.repository()?.select(&deadletter::Filter::default(), page)?;
                let id = newest.first().ok_or(Error::NotFound { id: "at all yet".into() })?;
                Ok(*id)
            }
        }
    }

    /// The service over an open store. Nothing runs by itself: a command does what it was told.
    pub fn service_over(&self, engine: Engine) -> DlqService {
        let builder = DlqService::builder().config(self.service_config());
        let builder = builder.repository(Arc::new(engine)).background(Background::Manual);
        builder.build()
    }
}
