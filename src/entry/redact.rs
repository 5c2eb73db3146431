//! What must not reach the disk: denied keys and the host's own hook.
//!
//! The deny-list works on the text: one pass over the tokens, without a tree and without
//! recursion, so that every byte that is not denied stays as it was.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::{Json, NewFailure};

/// What stands where a denied value stood.
const REPLACEMENT: &str = "\"[redacted]\"";

/// The host's own redaction, called before everything else.
type Hook = Arc<dyn Fn(&mut NewFailure) + Send + Sync>;

/// What is taken out of a failure before it is stored. The default takes nothing out.
///
/// The hook runs first, then the deny-list. `Debug` does not show the hook.
#[derive(Clone, Default)]
pub struct Redaction {
    /// Keys whose values become `"[redacted]"` at any depth of the five JSON fields. A key is
    /// meant as a whole and in any case.
    pub deny_keys: Vec<String>,
    /// Called with each failure before it is stored; may change anything.
    pub hook: Option<Hook>,
}

impl Redaction {
    /// Takes out of the failure what must not be stored.
    pub(super) fn apply(&self, failure: &mut NewFailure) {
        if let Some(hook) = &self.hook {
            hook(failure);
        }
        if self.deny_keys.is_empty() {
            return;
        }
        let denied: Vec<String> = self.deny_keys.iter().map(|key| key.to_lowercase()).collect();
        for json in [
            &mut failure.entity_refs,
            &mut failure.snapshot_data,
            &mut failure.request_data,
            &mut failure.response_data,
            &mut failure.metadata,
        ] {
            if let Some(redacted) = redact(json.as_str(), &denied) {
                *json = Json::trusted(redacted);
            }
        }
    }
}

impl fmt::Debug for Redaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redaction")
            .field("deny_keys", &self.deny_keys)
            .field("hook", &self.hook.is_some())
            .finish()
    }
}

/// The text without the values of the denied keys (in lower case), or `None` when it has none.
fn redact(text: &str, denied: &[String]) -> Option<String> {
    let mut redacted = String::new();
    let mut copied = 0;
    for value in denied_values(text, denied) {
        redacted.push_str(text.get(copied..value.start)?);
        redacted.push_str(REPLACEMENT);
        copied = value.end;
    }
    if copied == 0 {
        return None;
    }
    redacted.push_str(text.get(copied..)?);
    Some(redacted)
}

/// Where the denied values stand, in order and without overlap.
///
/// In valid JSON a string before a colon is a key and a colon outside strings stands behind a
/// key, so the depth need not be known.
fn denied_values(text: &str, denied: &[String]) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let mut values = Vec::new();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        if *byte != b'"' {
            at += 1;
            continue;
        }
        let key_end = string_end(bytes, at);
        let colon = skip_space(bytes, key_end);
        let key = at..key_end;
        at = key_end;
        if bytes.get(colon) == Some(&b':') && is_denied(text.get(key), denied) {
            let start = skip_space(bytes, colon + 1);
            at = value_end(bytes, start);
            values.push(start..at);
        }
    }
    values
}

/// Whether this key, with its quotes, is denied whatever its case and its escapes.
fn is_denied(quoted: Option<&str>, denied: &[String]) -> bool {
    let Some(quoted) = quoted else { return false };
    // A key with half a surrogate is no text, so that no deny-list can name it.
    let Ok(key) = serde_json::from_str::<String>(quoted) else { return false };
    let key = key.to_lowercase();
    denied.contains(&key)
}

/// The offset behind the string that begins here.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn skip_space(bytes: &[u8], start: usize) -> usize {
    let rest = bytes.get(start..).unwrap_or_default();
    start + rest.iter().take_while(|byte| b" \t\n\r".contains(byte)).count()
}

/// The offset behind the value that begins here.
fn value_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start;
    let mut depth = 0_usize;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => at = string_end(bytes, at),
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                at += 1;
            }
            // Within a container its end decides; outside, the end of the word.
            _ if depth > 0 => at += 1,
            _ => {
                let rest = bytes.get(at..).unwrap_or_default();
                return at + rest.iter().take_while(|byte| !b",]} \t\n\r".contains(byte)).count();
            }
        }
        if depth == 0 {
            return at;
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn check(text: &str, wanted: &str) {
        let denied = ["password".to_owned(), "token".to_owned(), "\u{e9}".to_owned()];
        let redacted = redact(text, &denied);
        assert_eq!(redacted.as_deref().unwrap_or(text), wanted);
        assert_eq!(redacted.is_some(), text != wanted, "an untouched text is not rebuilt");
    }

    #[test]
    fn denied_values_go_and_all_else_stays() {
        let r = REPLACEMENT;
        check("{}", "{}");
        check("{ \"a\" : 1.50 }", "{ \"a\" : 1.50 }");
        check("{\"password\":\"x\"}", &format!("{{\"password\":{r}}}"));
        check("{ \"PassWord\" :\t1e5 , \"b\":2}", &format!("{{ \"PassWord\" :\t{r} , \"b\":2}}"));
        check("{\"token\":null}", &format!("{{\"token\":{r}}}"));
        check("{\"token\":true\n}", &format!("{{\"token\":{r}\n}}"));
        check("{\"token\":[1,{\"a\":\"]}\"}],\"b\":3}", &format!("{{\"token\":{r},\"b\":3}}"));
        check("{\"token\":{\"token\":\"\\\"\"}}", &format!("{{\"token\":{r}}}"));
        check("{\"token\":1,\"token\":2}", &format!("{{\"token\":{r},\"token\":{r}}}"));
        check("[{\"a\":[{\"token\":[]}]}]", &format!("[{{\"a\":[{{\"token\":{r}}}]}}]"));
    }

    #[test]
    fn keys_are_meant_as_a_whole_and_whatever_their_escapes() {
        let r = REPLACEMENT;
        check("{\"tokens\":1,\"a\":\"token\"}", "{\"tokens\":1,\"a\":\"token\"}");
        check("[\"token\",\"password\"]", "[\"token\",\"password\"]");
        check("{\"a\":\"\\\"token\\\":1\"}", "{\"a\":\"\\\"token\\\":1\"}");
        check("{\"t\\u006fken\":1}", &format!("{{\"t\\u006fken\":{r}}}"));
        check("{\"\u{c9}\":1}", &format!("{{\"\u{c9}\":{r}}}"));
        check("{\"\\ud800\":1,\"token\":2}", &format!("{{\"\\ud800\":1,\"token\":{r}}}"));
    }

    #[test]
    fn deep_nesting_does_not_use_the_stack() {
        let depth = 500_000;
        let nest = |core: &str| format!("{}{core}{}", "{\"a\":".repeat(depth), "}".repeat(depth));
        check(&nest("{\"token\":1}"), &nest(&format!("{{\"token\":{REPLACEMENT}}}")));
        check(&format!("{{\"token\":{}}}", nest("1")), &format!("{{\"token\":{REPLACEMENT}}}"));
    }

    #[test]
    fn the_hook_runs_before_the_list_and_debug_hides_it() {
        let redaction = Redaction {
            deny_keys: vec!["TOKEN".to_owned()],
            hook: Some(Arc::new(|failure: &mut NewFailure| {
                failure.metadata = Json::trusted("{\"token\":1}".to_owned());
            })),
        };
        let mut failure = NewFailure::new("orders", "X");
        redaction.apply(&mut failure);
        assert_eq!(failure.metadata.as_str(), "{\"token\":\"[redacted]\"}");
        assert_eq!(format!("{redaction:?}"), "Redaction { deny_keys: [\"TOKEN\"], hook: true }");
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC{0,8}".prop_map(Value::from),
            "[\"\\\\:{},\\[\\]]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            let key = prop_oneof!["(token|Password|a|\"|\\\\)", "\\PC{0,3}"];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((key, inner), 0..4)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    /// The same by way of a tree.
    fn model(value: &mut Value, denied: &[String]) {
        match value {
            Value::Array(items) => items.iter_mut().for_each(|item| model(item, denied)),
            Value::Object(members) => {
                for (key, member) in members {
                    if denied.contains(&key.to_lowercase()) {
                        *member = Value::from("[redacted]");
                    } else {
                        model(member, denied);
                    }
                }
            }
            _ => {}
        }
    }

    proptest! {
        #[test]
        fn the_scanner_agrees_with_a_tree(value in any_value(), pretty in any::<bool>()) {
            let denied = ["token".to_owned(), "password".to_owned()];
            let write = |value: &Value| {
                if pretty { serde_json::to_string_pretty(value).unwrap() } else { value.to_string() }
            };
            let text = write(&value);
            let mut wanted = value;
            model(&mut wanted, &denied);
            prop_assert_eq!(redact(&text, &denied).unwrap_or(text), write(&wanted));
        }
    }
}
