//! Lists as answers, and times.
use crate::path::Kind;
use serde::Serialize;
use signpost_engine::{ids, rows};
use std::borrow::Cow;
use time::OffsetDateTime;
use utoipa::openapi::schema::{Schema, SchemaType};
use utoipa::openapi::{ArrayBuilder, ObjectBuilder, Ref, RefOr, Type};
use utoipa::{PartialSchema, ToSchema};

/// One page of a list.
#[derive(Debug, Serialize)]
pub(crate) struct Page<T> {
    /// The entries.
    pub(crate) data: Vec<T>,
    /// Give it as `cursor` for the next page; null on the last.
    pub(crate) next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// A page of rows, shown by `show`.
    pub(crate) fn of<K: Kind, R>(page: rows::Page<R>, show: impl FnMut(R) -> T) -> Self {
        let next_cursor = page.next.map(|id| ids::public(K::PREFIX, &id));
        Self { data: page.rows.into_iter().map(show).collect(), next_cursor }
    }
    /// A list that always fits one page.
    pub(crate) fn whole(data: Vec<T>) -> Self {
        Self { data, next_cursor: None }
    }
}

/// By hand (and named by aliases in the handlers' attributes): the derived schema of a generic type repeats the schema of its entries in place of referring to it.
impl<T: ToSchema> PartialSchema for Page<T> {
    fn schema() -> RefOr<Schema> {
        let entries = ArrayBuilder::new().items(Ref::from_schema_name(T::name()));
        let cursor = ObjectBuilder::new()
            .schema_type([Type::String, Type::Null].into_iter().collect::<SchemaType>())
            .description(Some("Give it as `cursor` for the next page; null on the last."));
        ObjectBuilder::new()
            .description(Some("One page of a list."))
            .property("data", entries)
            .required("data")
            .property("next_cursor", cursor)
            .required("next_cursor")
            .into()
    }
}

impl<T: ToSchema> ToSchema for Page<T> {
    fn name() -> Cow<'static, str> {
        format!("{}Page", T::name()).into()
    }
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((T::name().into_owned(), T::schema()));
        T::schemas(schemas);
    }
}

/// RFC 3339 in UTC with milliseconds: `2026-11-25T01:02:03.004Z`. Times outside the years 0 to 9999 are shown as the nearest inside.
pub(crate) fn timestamp(ms: i64) -> String {
    let (first, last) = (-62_167_219_200_000, 253_402_300_799_999);
    let nanos = i128::from(ms.clamp(first, last)) * 1_000_000;
    let at = OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = at.to_calendar_date();
    let (hour, minute, second, milli) = at.to_hms_milli();
    format!("{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z", u8::from(month))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_with_milliseconds() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_795_572_123_004, "2026-11-25T02:02:03.004Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (i64::MAX, "9999-12-31T23:59:59.999Z"),
            (i64::MIN, "0000-01-01T00:00:00.000Z"),
        ] {
            assert_eq!(timestamp(ms), text);
        }
    }
}
