//! Ids in paths and answers: `dom_...` outside, bare inside.
use crate::problem::Problem;
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use signpost_engine::ids;
use std::marker::PhantomData;

/// A kind of thing that has ids.
pub(crate) trait Kind {
    /// Prefix outside.
    const PREFIX: &'static str;
    /// For people.
    const NAME: &'static str;
}

macro_rules! kinds {
    ($($kind:ident $prefix:literal $name:literal)+) => {
        $(
            #[doc = concat!("Ids of a ", $name, ".")]
            pub(crate) enum $kind {}
            impl Kind for $kind {
                const PREFIX: &'static str = $prefix;
                const NAME: &'static str = $name;
            }
        )+
    };
}

kinds! {
    DomainId "dom" "domain"
    MessageId "msg" "message"
    EventId "evt" "event"
    CheckId "chk" "check"
    KeyId "key" "key"
    AuditId "aud" "audit row"
}

/// The id without prefix of the one path parameter. What cannot be an id of that kind cannot exist: 404.
pub(crate) struct Id<K>(pub(crate) String, pub(crate) PhantomData<K>);

impl<K: Kind, S: Send + Sync> FromRequestParts<S> for Id<K> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let not_found = || Problem::not_found(K::NAME);
        let Path(text) = Path::<String>::from_request_parts(parts, state).await.map_err(|_| not_found())?;
        let id = ids::parse(K::PREFIX, &text).ok_or_else(not_found)?;
        Ok(Self(id.to_owned(), PhantomData))
    }
}
