//! Query parameters: percent-decoded (RFC 3986 2.1), unknown and repeated ones refused.
use crate::path::Kind;
use crate::problem::{Fault, Problem};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use percent_encoding::percent_decode_str;
use signpost_engine::ids;
use utoipa::IntoParams;

/// The parameters of a query that were not taken yet.
#[derive(Debug)]
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    /// `+` stays `+`: `?rcpt=ann+tag@example.com` must not become another address.
    pub(crate) fn parse(query: Option<&str>) -> Result<Self, Fault> {
        query
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(pair)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// All values of a parameter.
    pub(crate) fn all(&mut self, name: &str) -> Vec<String> {
        self.0.extract_if(.., |(given, _)| given == name).map(|(_, value)| value).collect()
    }

    /// The one value of a parameter.
    pub(crate) fn one(&mut self, name: &str) -> Result<Option<String>, Fault> {
        let mut values = self.all(name);
        let value = values.pop();
        if values.is_empty() {
            Ok(value)
        } else {
            Err(Fault::in_parameter(name, format!("`{name}` stands more than once; give it once.")))
        }
    }

    /// Refuses what nobody took.
    fn finish(self) -> Result<(), Fault> {
        match self.0.into_iter().next() {
            None => Ok(()),
            Some((mut name, _)) => {
                name.truncate(name.floor_char_boundary(100));
                Err(Fault::in_parameter(&name, format!("This call has no query parameter `{name}`; leave it out.")))
            }
        }
    }
}

fn pair(text: &str) -> Result<(String, String), Fault> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    let decode = |part: &str| percent_decode_str(part).decode_utf8().map(std::borrow::Cow::into_owned);
    let name = decode(name)
        .map_err(|_| Fault::in_parameter("", "The query is not UTF-8 after percent-decoding; encode it as UTF-8."))?;
    match decode(value) {
        Ok(value) => Ok((name, value)),
        Err(_) => Err(Fault::in_parameter(
            name.clone(),
            "The value is not UTF-8 after percent-decoding; encode it as UTF-8.".to_owned(),
        )),
    }
}

/// What a call takes as query.
pub(crate) trait FromParams: Sized {
    /// Takes its parameters out.
    fn from_params(params: &mut Params) -> Result<Self, Fault>;
}

/// Extracts `T` from the query.
pub(crate) struct Query<T>(pub(crate) T);

impl<T: FromParams, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        parse(parts.uri.query()).map(Self).map_err(|fault| Problem::invalid(vec![fault]))
    }
}

fn parse<T: FromParams>(query: Option<&str>) -> Result<T, Fault> {
    let mut params = Params::parse(query)?;
    let value = T::from_params(&mut params)?;
    params.finish()?;
    Ok(value)
}

/// Where a page begins and how long it is.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Paging {
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Entries a page.
    #[param(minimum = 1, maximum = 100, default = 50, required = false)]
    pub(crate) limit: u32,
}

impl Paging {
    /// The id after which the page begins, without prefix.
    pub(crate) fn after<K: Kind>(&self) -> Result<Option<&str>, Problem> {
        self.cursor
            .as_deref()
            .map(|cursor| {
                ids::parse(K::PREFIX, cursor).ok_or_else(|| {
                    Problem::invalid(vec![Fault::in_parameter(
                        "cursor",
                        "Not a cursor of this list; give the `next_cursor` of its last page.",
                    )])
                })
            })
            .transpose()
    }
}

impl FromParams for Paging {
    fn from_params(params: &mut Params) -> Result<Self, Fault> {
        let limit = match params.one("limit")? {
            None => 50,
            Some(text) => match text.parse::<u32>() {
                Ok(limit @ 1..=100) => limit,
                Ok(_) | Err(_) => return Err(Fault::in_parameter("limit", "`limit` is a whole number from 1 to 100.")),
            },
        };
        Ok(Self { cursor: params.one("cursor")?, limit })
    }
}

/// For calls without query parameters.
impl FromParams for () {
    fn from_params(_params: &mut Params) -> Result<Self, Fault> {
        Ok(())
    }
}

/// Two groups of parameters.
impl<A: FromParams, B: FromParams> FromParams for (A, B) {
    fn from_params(params: &mut Params) -> Result<Self, Fault> {
        Ok((A::from_params(params)?, B::from_params(params)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plus_in_an_address_stays_a_plus() {
        let mut params = Params::parse(Some("rcpt=ann+tag@example.com&rcpt=%22a%20b%22%40example.com&x=1")).unwrap();
        assert_eq!(params.all("rcpt"), ["ann+tag@example.com", "\"a b\"@example.com"]);
        assert_eq!(params.finish().unwrap_err().parameter.as_deref(), Some("x"));
    }

    #[test]
    fn paging_is_checked() {
        let limit = |query: &str| parse::<Paging>(Some(query)).map(|paging| paging.limit);
        assert_eq!(limit("").unwrap(), 50);
        assert_eq!(limit("limit=100").unwrap(), 100);
        for wrong in [
            "limit=0",
            "limit=101",
            "limit=-1",
            "limit=",
            "limit=1&limit=2",
            "limit=99999999999",
            "limt=5",
            "limit=%ff",
        ] {
            assert!(limit(wrong).is_err(), "{wrong}");
        }
        let id = "0".repeat(32);
        let paging = parse::<Paging>(Some(&format!("cursor=dom_{id}"))).unwrap();
        assert_eq!(paging.after::<crate::path::DomainId>().unwrap(), Some(id.as_str()));
        assert!(paging.after::<crate::path::MessageId>().is_err(), "a cursor of another list");
    }
}
