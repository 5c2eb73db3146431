//! Entries that nobody failed at: for trying out a store, its alarms and its handlers.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::{DlqEntryResult, DlqService, StoreMode, StoreOptions};
use crate::entry::{Json, NewFailure};

/// A synthetic failure. Everything has a default.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TestEntry {
    /// Default `external_service`.
    pub domain: String,
    /// Default `TEST_FAILURE`.
    pub failure_type: String,
    /// Default none.
    pub user_id: Option<i64>,
    /// Default `test`.
    pub entity_type: Option<String>,
    /// Default empty.
    pub entity_id: Option<String>,
    /// Default `Test failure for load testing`.
    pub error_message: String,
    /// Default empty.
    pub snapshot_data: Json,
    /// Default empty.
    pub request_data: Json,
    /// Default empty.
    pub response_data: Json,
    /// Default empty; `synthetic` and `created_by` are added.
    pub metadata: Json,
    /// Who made it. Default empty.
    pub created_by: String,
}

impl Default for TestEntry {
    fn default() -> Self {
        Self {
            domain: "external_service".to_owned(),
            failure_type: "TEST_FAILURE".to_owned(),
            user_id: None,
            entity_type: Some("test".to_owned()),
            entity_id: Some(String::new()),
            error_message: "Test failure for load testing".to_owned(),
            snapshot_data: Json::empty(),
            request_data: Json::empty(),
            response_data: Json::empty(),
            metadata: Json::empty(),
            created_by: String::new(),
        }
    }
}

impl DlqService {
    /// Stores a synthetic failure, on the same path as a real one, and waits for it. Its metadata
    /// says that it is one and who made it.
    pub fn create_test_entry(&self, entry: TestEntry) -> DlqEntryResult {
        let metadata = match marked(&entry.metadata, &entry.created_by) {
            Ok(metadata) => metadata,
            Err(error) => return DlqEntryResult::failed(format!("metadata: {error}")),
        };
        let failure = NewFailure {
            user_id: entry.user_id,
            entity_type: entry.entity_type,
            entity_id: entry.entity_id,
            error_message: entry.error_message,
            snapshot_data: entry.snapshot_data,
            request_data: entry.request_data,
            response_data: entry.response_data,
            metadata,
            ..NewFailure::new(entry.domain, entry.failure_type)
        };
        self.store_failure_with(failure, StoreOptions::default().mode(StoreMode::Sync))
    }
}

/// The metadata with the marks of a synthetic entry.
fn marked(metadata: &Json, created_by: &str) -> serde_json::Result<Json> {
    let mut map: BTreeMap<String, Box<RawValue>> = serde_json::from_str(metadata.as_str())?;
    map.insert("synthetic".to_owned(), serde_json::value::to_raw_value(&true)?);
    map.insert("created_by".to_owned(), serde_json::value::to_raw_value(created_by)?);
    let text = serde_json::to_string(&map)?;
    Json::object(text).map_err(serde::de::Error::custom)
}
