//! Idempotency-Key rows, kept for 7 days.
use crate::statement::{Connection, Row, sql};
use crate::{Store, StoreError};
use sqlx::sqlite::SqliteConnection;

/// How long an answer is kept, in ms.
const KEPT: i64 = 7 * 24 * 60 * 60 * 1000;
/// A request in flight that was not renewed for longer has no handler any more, in ms: its process died, or could not say that
/// it gave the request up. One that is let in wrongly does no harm, since only one of two can complete the row.
const ABANDONED_AFTER: i64 = 20_000;

/// Scope of a key.
#[derive(Debug, Clone)]
pub struct IdempotencyScope {
    /// Tenant.
    pub tenant_id: String,
    /// HTTP method.
    pub method: String,
    /// Path with query.
    pub path: String,
    /// The header's value.
    pub key: String,
}

/// A frozen answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAnswer {
    /// HTTP status, never 5xx.
    pub status: u16,
    /// Content-Type.
    pub content_type: String,
    /// Body octets.
    pub body: Vec<u8>,
}

/// What the key says about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begin {
    /// First time: go on.
    Started,
    /// The same request is being worked on.
    InFlight,
    /// Done before with the same body.
    Replay(StoredAnswer),
    /// Used before with another body.
    Mismatch,
}

impl Store {
    /// Starts a request. Rows in flight of an earlier boot or not renewed for more than 20 s, rows of requests that ended in a
    /// 5xx, and rows older than 7 days count as never begun. Another body is a `Mismatch` also while the first is in flight.
    pub async fn begin_idempotent(
        &self,
        scope: &IdempotencyScope,
        body_hash: &[u8],
        now: i64,
    ) -> Result<Begin, StoreError> {
        let (scope, body_hash) = (scope.clone(), body_hash.to_vec());
        self.write(move |conn| {
            Box::pin(async move {
                // Inserted first: of requests at the same moment one inserts, the others wait for it and then read its row.
                if insert_in_flight(conn, &scope, &body_hash, now).await? {
                    return Ok(Begin::Started);
                }
                match earlier(conn, &scope, &body_hash, now).await? {
                    Some(begin) => Ok(begin),
                    None => begin_anew(conn, &scope, &body_hash, now).await,
                }
            })
        })
        .await
    }

    /// Says that a request is still being worked on; every 5 s. Without effect once its answer is frozen.
    pub async fn renew_idempotent(&self, scope: &IdempotencyScope, now: i64) -> Result<(), StoreError> {
        let scope = scope.clone();
        self.write(move |conn| {
            Box::pin(async move {
                sql("UPDATE idempotency SET created_at = $5
                     WHERE tenant_id = $1 AND method = $2 AND path = $3 AND key = $4 AND state = 'in_flight'")
                .bind(&scope.tenant_id)
                .bind(&scope.method)
                .bind(&scope.path)
                .bind(&scope.key)
                .bind(now)
                .execute(conn)
                .await?;
                Ok(())
            })
        })
        .await
    }

    /// Freezes an answer that wrote nothing else (4xx). An answer that is frozen already stays.
    pub async fn finish_idempotent(
        &self,
        scope: &IdempotencyScope,
        answer: &StoredAnswer,
        now: i64,
    ) -> Result<(), StoreError> {
        let (scope, answer) = (scope.clone(), answer.clone());
        self.write(move |conn| {
            Box::pin(async move {
                complete(conn, &scope, &answer, now).await?;
                Ok(())
            })
        })
        .await
    }

    /// Forgets a request that ended in a 5xx. An answer that is frozen already stays.
    pub async fn abandon_idempotent(&self, scope: &IdempotencyScope) -> Result<(), StoreError> {
        let scope = scope.clone();
        self.write(move |conn| {
            Box::pin(async move {
                sql("UPDATE idempotency SET state = 'abandoned'
                     WHERE tenant_id = $1 AND method = $2 AND path = $3 AND key = $4 AND state = 'in_flight'")
                .bind(&scope.tenant_id)
                .bind(&scope.method)
                .bind(&scope.path)
                .bind(&scope.key)
                .execute(conn)
                .await?;
                Ok(())
            })
        })
        .await
    }

    /// Drops rows older than 7 days; returns how many.
    pub async fn expire_idempotent(&self, now: i64) -> Result<u64, StoreError> {
        self.write(move |conn| {
            Box::pin(async move {
                let gone = sql("DELETE FROM idempotency WHERE created_at < $1").bind(now - KEPT).execute(conn).await?;
                Ok(gone.rows_affected())
            })
        })
        .await
    }
}

/// False if there is a row already.
async fn insert_in_flight(
    conn: &mut Connection<'_>,
    scope: &IdempotencyScope,
    body_hash: &[u8],
    now: i64,
) -> Result<bool, StoreError> {
    let inserted = sql("INSERT INTO idempotency (tenant_id, method, path, key, body_hash, state, created_at)
                        VALUES ($1, $2, $3, $4, $5, 'in_flight', $6)
                        ON CONFLICT (tenant_id, method, path, key) DO NOTHING")
    .bind(&scope.tenant_id)
    .bind(&scope.method)
    .bind(&scope.path)
    .bind(&scope.key)
    .bind(body_hash.to_vec())
    .bind(now)
    .execute(conn)
    .await?;
    Ok(inserted.rows_affected() > 0)
}

/// The row that is there, and locked, counts as never begun. `Stale` if it was dropped for its age just now.
async fn begin_anew(
    conn: &mut Connection<'_>,
    scope: &IdempotencyScope,
    body_hash: &[u8],
    now: i64,
) -> Result<Begin, StoreError> {
    let begun = sql("UPDATE idempotency SET body_hash = $5, state = 'in_flight', status = NULL, content_type = NULL,
                            body = NULL, created_at = $6
                     WHERE tenant_id = $1 AND method = $2 AND path = $3 AND key = $4")
    .bind(&scope.tenant_id)
    .bind(&scope.method)
    .bind(&scope.path)
    .bind(&scope.key)
    .bind(body_hash.to_vec())
    .bind(now)
    .execute(conn)
    .await?;
    if begun.rows_affected() == 0 { Err(StoreError::Stale) } else { Ok(Begin::Started) }
}

/// What an earlier request with this key means for this one; `None` if it counts as never begun.
async fn earlier(
    conn: &mut Connection<'_>,
    scope: &IdempotencyScope,
    body_hash: &[u8],
    now: i64,
) -> Result<Option<Begin>, StoreError> {
    let row = sql("SELECT * FROM idempotency
                   WHERE tenant_id = $1 AND method = $2 AND path = $3 AND key = $4")
    .bind(&scope.tenant_id)
    .bind(&scope.method)
    .bind(&scope.path)
    .bind(&scope.key)
    .for_update()
    .fetch_optional(conn)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let same_body = row.try_get::<&[u8]>("body_hash")? == body_hash;
    let age = now - row.try_get::<i64>("created_at")?;
    match row.try_get("state")? {
        _ if age > KEPT => Ok(None),
        "abandoned" => Ok(None),
        "in_flight" if age > ABANDONED_AFTER => Ok(None),
        "in_flight" if same_body => Ok(Some(Begin::InFlight)),
        "done" if same_body => Ok(Some(Begin::Replay(answer(&row)?))),
        "in_flight" | "done" => Ok(Some(Begin::Mismatch)),
        _ => Err(StoreError::Damaged("an idempotency row has an unknown state".into())),
    }
}

fn answer(row: &Row) -> Result<StoredAnswer, StoreError> {
    let status: i64 = row.try_get("status")?;
    let status = u16::try_from(status).map_err(|_| StoreError::Damaged("a stored answer has no HTTP status".into()))?;
    Ok(StoredAnswer { status, content_type: row.try_get("content_type")?, body: row.try_get("body")? })
}

/// Completes the row with the answer; false if an answer is frozen already. A row that was never begun is made with an
/// empty body hash, which equals no hash: a later request with the key is a `Mismatch`, never a second delivery.
pub(crate) async fn complete(
    conn: &mut Connection<'_>,
    scope: &IdempotencyScope,
    answer: &StoredAnswer,
    now: i64,
) -> Result<bool, StoreError> {
    let done =
        sql("INSERT INTO idempotency (tenant_id, method, path, key, body_hash, state, status, content_type, body,
                                             created_at)
                    VALUES ($1, $2, $3, $4, $5, 'done', $6, $7, $8, $9)
                    ON CONFLICT (tenant_id, method, path, key) DO UPDATE SET state = 'done', status = $6,
                    content_type = $7, body = $8 WHERE idempotency.state <> 'done'")
        .bind(&scope.tenant_id)
        .bind(&scope.method)
        .bind(&scope.path)
        .bind(&scope.key)
        .bind(Vec::<u8>::new())
        .bind(i64::from(answer.status))
        .bind(&answer.content_type)
        .bind(&answer.body)
        .bind(now)
        .execute(conn)
        .await?;
    Ok(done.rows_affected() > 0)
}

/// Requests that were in flight when the former process ended have no handler any more.
pub(crate) async fn forget_in_flight(conn: &mut SqliteConnection) -> Result<(), StoreError> {
    sql("DELETE FROM idempotency WHERE state <> 'done'").execute(&mut Connection::Sqlite(conn)).await?;
    Ok(())
}
