//! Which documents of its memories a request sees.

use std::collections::HashMap;

use jiff::Timestamp;
use mnemon_memory_store::DocumentLabels;
use mnemon_proto::v1;

/// Metadata that tells the date of a document.
const DATE: &str = "date";

/// A filter of the contract that asks for something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DocumentFilter {
    prefix: String,
    metadata: HashMap<String, String>,
    from: String,
    until: String,
}

impl DocumentFilter {
    /// `None` where all documents are seen. The request was validated.
    pub(crate) fn of_request(filter: Option<v1::DocumentFilter>) -> Option<Self> {
        let v1::DocumentFilter { document_prefix, metadata, from, until } = filter?;
        let filter = Self { prefix: document_prefix, metadata, from, until };
        let is_empty =
            filter.prefix.is_empty() && filter.metadata.is_empty() && filter.from.is_empty() && filter.until.is_empty();
        (!is_empty).then_some(filter)
    }

    pub(crate) fn to_send(&self) -> v1::DocumentFilter {
        v1::DocumentFilter {
            document_prefix: self.prefix.clone(),
            metadata: self.metadata.clone(),
            from: self.from.clone(),
            until: self.until.clone(),
        }
    }

    pub(crate) fn keeps(&self, document: DocumentLabels<'_>) -> bool {
        document.id.starts_with(&self.prefix)
            && self.metadata.iter().all(|(key, value)| document.metadata.get(key) == Some(value))
            && self.is_in_time(document)
    }

    fn is_in_time(&self, document: DocumentLabels<'_>) -> bool {
        if self.from.is_empty() && self.until.is_empty() {
            return true;
        }
        let committed = || {
            let time = Timestamp::from_millisecond(i64::try_from(document.updated_unix_ms).ok()?).ok()?;
            (document.updated_unix_ms > 0).then(|| time.to_string())
        };
        let date = document.metadata.get(DATE).filter(|date| is_date(date)).cloned();
        let Some(date) = date.or_else(committed) else { return false };
        // ISO 8601 sorts as text; a shorter date stands for all of its year, month or day.
        let within = |bound: &str| date.starts_with(bound) || bound.starts_with(&date);
        (self.from.is_empty() || date.as_str() >= self.from.as_str() || within(&self.from))
            && (self.until.is_empty() || date.as_str() <= self.until.as_str() || within(&self.until))
    }
}

/// Whether a text begins as a date of ISO 8601 does: a year, and a month, a day and a time of day as far as it tells.
pub(crate) fn is_date(text: &str) -> bool {
    const FORM: &[u8] = b"dddd-dd-ddTdd:dd:dd";
    let bytes = text.as_bytes();
    let fits = |(form, byte): (&u8, &u8)| match form {
        b'd' => byte.is_ascii_digit(),
        b'T' => matches!(byte, b'T' | b' '),
        other => other == byte,
    };
    let told = bytes.len().min(FORM.len());
    let ends_whole = matches!(told, 4 | 7 | 10 | 16 | 19);
    ends_whole && FORM.iter().zip(bytes).all(fits)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn keeps(filter: &DocumentFilter, id: &str, labels: &[(&str, &str)], updated_unix_ms: u64) -> bool {
        let metadata: BTreeMap<String, String> =
            labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        filter.keeps(DocumentLabels { id, metadata: &metadata, updated_unix_ms })
    }

    fn between(from: &str, until: &str) -> DocumentFilter {
        DocumentFilter { prefix: String::new(), metadata: HashMap::new(), from: from.into(), until: until.into() }
    }

    #[test]
    fn documents_are_chosen_by_name_and_metadata() {
        let filter = DocumentFilter {
            prefix: "notes/".into(),
            metadata: [("speaker".to_owned(), "Anna".to_owned())].into(),
            ..between("", "")
        };
        let anna = [("speaker", "Anna"), ("date", "2024")];
        assert!(keeps(&filter, "notes/a", &anna, 0));
        assert!(!keeps(&filter, "books/a", &anna, 0));
        assert!(!keeps(&filter, "notes/a", &[("speaker", "anna")], 0) && !keeps(&filter, "notes/a", &[], 0));
    }

    #[test]
    fn times_are_those_of_the_date_or_else_of_the_last_commit() {
        let may = between("2024-05", "2024-05");
        for (date, kept) in [
            ("2024-05-01", true),
            ("2024-05-31T23:59", true),
            ("2024", true),
            ("2024-06-01", false),
            ("2024-04-30", false),
        ] {
            assert_eq!(keeps(&may, "a", &[("date", date)], 0), kept, "{date}");
        }
        // 2024-05-15 and 2023-11-14.
        assert!(keeps(&may, "a", &[], 1_715_731_200_000) && keeps(&may, "a", &[("date", "soon")], 1_715_731_200_000));
        assert!(!keeps(&may, "a", &[], 1_700_000_000_000) && !keeps(&may, "a", &[], 0));
        assert!(keeps(&between("2024-05-02T10:00", ""), "a", &[("date", "2024-05-02T10:00:30Z")], 0));
        assert!(!keeps(&between("", "2023"), "a", &[("date", "2024-01-01")], 0));
        assert!(keeps(&between("", "2023"), "a", &[("date", "2023-12-31")], 0));
    }

    #[test]
    fn dates_have_their_form() {
        for date in ["2024", "2024-05", "2024-05-01", "2024-05-01T10:00", "2024-05-01 10:00:59.5+02:00"] {
            assert!(is_date(date), "{date}");
        }
        for other in ["", "24", "2024-5-1", "May 2024", "2024-05-0", "2024-05-01T10", "２０２４"] {
            assert!(!is_date(other), "{other}");
        }
    }

    #[test]
    fn an_empty_filter_is_none() {
        assert_eq!(DocumentFilter::of_request(None), None);
        assert_eq!(DocumentFilter::of_request(Some(v1::DocumentFilter::default())), None);
        let filter = between("2024", "");
        assert_eq!(DocumentFilter::of_request(Some(filter.to_send())), Some(filter));
    }
}
