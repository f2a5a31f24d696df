//! Token to tenant and scopes. `Authorized<S>` stands before the body in every handler, so that nobody's body is read without credentials.
use crate::answer::RequestId;
use crate::problem::Problem;
use crate::rate;
use crate::router::ApiState;
use crate::{jwt, token};
use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use signpost_engine::{Caller, Error, Scope};
use std::marker::PhantomData;

/// A scope as a type.
pub(crate) trait Required {
    /// The scope.
    const SCOPE: Scope;
}

macro_rules! scopes {
    ($($name:ident)+) => {
        $(
            #[doc = concat!("`Scope::", stringify!($name), "`.")]
            pub(crate) enum $name {}
            impl Required for $name {
                const SCOPE: Scope = Scope::$name;
            }
        )+
    };
}

scopes! { DomainsRead DomainsWrite MessagesSend MessagesRead Sign Admin }

/// A caller who has the scope `S`.
pub(crate) struct Authorized<S>(pub(crate) Caller, pub(crate) PhantomData<S>);

impl<S: Required> FromRequestParts<ApiState> for Authorized<S> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        let token = bearer(&parts.headers).ok_or(Error::Unauthenticated)?;
        let known = if jwt::looks_like(token) {
            token::bearer(state, token).await
        } else {
            state.engine.authenticate(token).await
        };
        let mut caller = known.map_err(|error| Problem::from(error).with_token_refused())?;
        tracing::Span::current().record("tenant", &caller.tenant_id);
        rate::admit(state.rate.as_ref(), &caller.tenant_id, parts)?;
        caller.require(S::SCOPE)?;
        caller.request_id = parts.extensions.get::<RequestId>().map(|id| id.0.clone());
        Ok(Self(caller, PhantomData))
    }
}

/// The token of the one `Authorization: Bearer ...` (RFC 6750 2.1; the scheme in any case, RFC 9110 11.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let token = token.trim_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn only_one_bearer_token_counts() {
        let table: &[(&[&str], Option<&str>)] = &[
            (&["Bearer sp_a_b"], Some("sp_a_b")),
            (&["bearer sp_a_b"], Some("sp_a_b")),
            (&["BEARER   sp_a_b"], Some("sp_a_b")),
            (&[], None),
            (&["sp_a_b"], None),
            (&["Bearer"], None),
            (&["Bearer "], None),
            (&["Basic sp_a_b"], None),
            (&["Bearer sp_a_b", "Bearer sp_c_d"], None),
        ];
        for (values, expected) in table {
            let mut headers = HeaderMap::new();
            for value in *values {
                headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            }
            assert_eq!(bearer(&headers), *expected, "{values:?}");
        }
    }
}
