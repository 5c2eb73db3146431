//! An entry as one flat row of fields, in JSON and in binary.
//!
//! Serde's own `flatten` passes each value through a tree, which would not keep a payload byte
//! for byte; so the row names every field once, borrowed to write and owned to read. Counts that
//! older rows lack read as zero.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Action, Attempt, Entry, EntryId, FailedOperation, Json, Lease, Status, Timestamp};

macro_rules! rows {
    (
        operation { $($inner:ident: $inner_type:ty,)* }
        entry { $($(#[$attribute:meta])? $outer:ident: $outer_type:ty,)* }
    ) => {
        #[derive(Serialize)]
        struct RowRef<'a> {
            $($inner: &'a $inner_type,)*
            $($outer: &'a $outer_type,)*
        }

        #[derive(Deserialize)]
        struct Row {
            $($inner: $inner_type,)*
            $($(#[$attribute])? $outer: $outer_type,)*
        }

        impl<'a> From<&'a Entry> for RowRef<'a> {
            fn from(entry: &'a Entry) -> Self {
                Self {
                    $($inner: &entry.operation.$inner,)*
                    $($outer: &entry.$outer,)*
                }
            }
        }

        impl From<Row> for Entry {
            fn from(row: Row) -> Self {
                Self {
                    operation: FailedOperation { $($inner: row.$inner,)* },
                    $($outer: row.$outer,)*
                }
            }
        }
    };
}

rows! {
    operation {
        id: EntryId,
        domain: String,
        failure_type: String,
        status: Status,
        entity_type: Option<String>,
        entity_id: Option<String>,
        entity_refs: Json,
        user_id: Option<i64>,
        snapshot_data: Json,
        error_code: String,
        error_message: String,
        retry_count: u32,
        max_retries: u32,
        last_retry_at: Option<Timestamp>,
        request_data: Json,
        response_data: Json,
        metadata: Json,
        resolved_at: Option<Timestamp>,
        resolved_by_id: Option<i64>,
        resolution_type: String,
        resolution_note: String,
        next_action_hint: String,
        recommended_action: String,
        created_at: Timestamp,
        updated_at: Timestamp,
        expires_at: Option<Timestamp>,
    }
    entry {
        key: String,
        original_domain: Option<String>,
        runnable: bool,
        not_before: Option<Timestamp>,
        archived_at: Option<Timestamp>,
        lease: Option<Lease>,
        attempts: Vec<Attempt>,
        attempts_older: u32,
        audit: Vec<Action>,
        audit_older: u32,
        terminal_at: Option<Timestamp>,
        #[serde(default)]
        previous_total_retries: u32,
        #[serde(default)]
        force_redrive_count: u32,
    }
}

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RowRef::from(self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Row::deserialize(deserializer).map(Self::from)
    }
}
