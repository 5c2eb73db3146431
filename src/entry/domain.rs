//! The names of service boundaries.

/// The most characters of a domain.
pub(crate) const DOMAIN_CHARS_MAX: usize = 64;

/// A domain as it is stored: trimmed, in lower case, 1 to 64 characters, a letter followed by
/// letters, digits and underscores, then segments of the same behind dots. `None` when the text
/// is no domain.
///
/// # Example
///
/// ```
/// let domain = deadletter::normalize_domain(" Payments.EU_1 ");
/// assert_eq!(domain.as_deref(), Some("payments.eu_1"));
/// assert_eq!(deadletter::normalize_domain("4u"), None);
/// ```
pub fn normalize_domain(text: &str) -> Option<String> {
    let domain = text.trim().to_ascii_lowercase();
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let fits = domain.len() <= DOMAIN_CHARS_MAX
        && domain.starts_with(|first: char| first.is_ascii_lowercase())
        && domain.split('.').all(|segment| !segment.is_empty() && segment.bytes().all(is_word));
    fits.then_some(domain)
}

#[cfg(test)]
mod tests {
    use super::normalize_domain;

    #[test]
    fn domains_are_normalized_or_refused() {
        let long = "a".repeat(64);
        for (text, wanted) in [
            ("payments", "payments"),
            (" \tPayments.EU_1\n", "payments.eu_1"),
            ("a", "a"),
            ("a_.1._", "a_.1._"),
            (&long, &long),
        ] {
            assert_eq!(normalize_domain(text).as_deref(), Some(wanted));
        }
        let too_long = "a".repeat(65);
        for text in [
            "", " ", "1a", "_a", ".a", "a.", "a..b", "a-b", "a b", "a/b", "\u{212a}", "\u{e9}t",
            &too_long,
        ] {
            assert_eq!(normalize_domain(text), None, "{text:?}");
        }
    }
}
