//! Group commit of accepted messages on PostgreSQL: what waits goes into one transaction, with one statement for each table
//! however many messages they are. Row by row, a message takes a dozen round trips and a commit of its own.
use crate::db::json_text;
use crate::messages::accept;
use crate::postgres;
use crate::statement::{Connection, without_nul};
use crate::{AuditRow, EventRow, NewMessage, RecipientRow, StoreError};
use sqlx::postgres::{PgArguments, PgConnection, PgPool};
use sqlx::query::Query;
use sqlx::{Postgres, Row as _};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use tokio::sync::{Mutex, mpsc, oneshot};

/// Transactions under way at a time. More of them would be smaller ones.
const LANES: usize = 3;
/// Messages of one transaction, at most.
const GROUP: usize = 64;
/// Larger messages have transactions of their own, so that a group is a few megabytes and no message waits for the octets of many.
const GROUPED: usize = 64 * 1024;
/// Messages that may wait; callers beyond wait in `accept`, so that memory stays bounded.
const WAITING: usize = 256;

/// A message, and where to tell what became of it.
struct Job {
    new: NewMessage,
    reply: oneshot::Sender<Result<(), StoreError>>,
}

/// Handle on the tasks that commit. They end when it is dropped.
pub(crate) struct GroupAccept {
    jobs: mpsc::Sender<Job>,
}

impl GroupAccept {
    /// Starts them.
    pub(crate) fn start(pool: &PgPool) -> Self {
        let (jobs, waiting) = mpsc::channel(WAITING);
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..LANES {
            tokio::spawn(serve(Arc::clone(&waiting), pool.clone()));
        }
        Self { jobs }
    }

    /// True for a message that may go with others.
    pub(crate) fn takes(&self, new: &NewMessage) -> bool {
        new.body.raw.len() <= GROUPED
    }

    /// As `Store::accept_message`.
    pub(crate) async fn accept(&self, new: NewMessage) -> Result<(), StoreError> {
        let ended = || StoreError::Unavailable(sqlx::Error::WorkerCrashed);
        let (reply, answer) = oneshot::channel();
        self.jobs.send(Job { new, reply }).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}

async fn serve(waiting: Arc<Mutex<mpsc::Receiver<Job>>>, pool: PgPool) {
    loop {
        let mut group = Vec::new();
        if waiting.lock().await.recv_many(&mut group, GROUP).await == 0 {
            return;
        }
        commit(&pool, group).await;
    }
}

/// All of them in one transaction. If one of them is refused, or its domain is being changed, each in its own: what is wrong with one is
/// told to its caller only, and who waits for the domain of one tenant holds up no other.
async fn commit(pool: &PgPool, group: Vec<Job>) {
    let (news, replies): (Vec<_>, Vec<_>) = group.into_iter().map(|job| (job.new, job.reply)).unzip();
    let news = Arc::new(news);
    let all = Arc::clone(&news);
    let written =
        postgres::write(pool.clone(), move |conn| Box::pin(async move { insert_all(conn, &all).await })).await;
    match written.map_err(StoreError::from) {
        Ok(()) => replies.into_iter().for_each(|reply| tell(reply, Ok(()))),
        Err(StoreError::Unavailable(cause)) => {
            let cause = Arc::new(cause);
            for reply in replies {
                let cause = std::io::Error::other(Arc::clone(&cause));
                tell(reply, Err(StoreError::Unavailable(sqlx::Error::Io(cause))));
            }
        }
        Err(
            StoreError::Conflict
            | StoreError::Stale
            | StoreError::Contested
            | StoreError::InUse
            | StoreError::Refused(_)
            | StoreError::Damaged(_),
        ) => {
            let mut by_domain: BTreeMap<String, Vec<Job>> = BTreeMap::new();
            for (new, reply) in news.iter().cloned().zip(replies) {
                by_domain.entry(new.message.domain_id.clone()).or_default().push(Job { new, reply });
            }
            for jobs in by_domain.into_values() {
                tokio::spawn(commit_each(pool.clone(), jobs));
            }
        }
    }
}

/// One after the other, on one connection at a time.
async fn commit_each(pool: PgPool, jobs: Vec<Job>) {
    for Job { new, reply } in jobs {
        let written = postgres::write(pool.clone(), move |conn| Box::pin(accept(conn, new))).await;
        tell(reply, written.map_err(StoreError::from));
    }
}

fn tell(reply: oneshot::Sender<Result<(), StoreError>>, result: Result<(), StoreError>) {
    // The caller may have gone; its message is committed or not either way.
    let _ = reply.send(result);
}

/// What `accept` does, for several messages.
async fn insert_all(conn: &mut Connection<'_>, news: &[NewMessage]) -> Result<(), StoreError> {
    {
        let Connection::Postgres(conn) = &mut *conn else {
            return Err(StoreError::Damaged("SQLite commits in groups by itself".into()));
        };
        hold_domains(conn, news).await?;
        messages(news)?.execute(&mut **conn).await?;
        bodies(news).execute(&mut **conn).await?;
        recipients(news).execute(&mut **conn).await?;
        events(news)?.execute(&mut **conn).await?;
        audit(news)?.execute(&mut **conn).await?;
    }
    for new in news {
        if let Some((scope, answer)) = &new.idempotency
            && !crate::idempotency::complete(conn, scope, answer, new.message.created_at).await?
        {
            return Err(StoreError::Conflict);
        }
    }
    Ok(())
}

/// Each message's domain must be its tenant's and not deleted, and stays so until the commit: see `messages::insert_message`. One that
/// is being changed now is not waited for here: the deletion of a domain with much mail takes seconds.
async fn hold_domains(conn: &mut PgConnection, news: &[NewMessage]) -> Result<(), StoreError> {
    let ids: BTreeSet<&str> = news.iter().map(|new| new.message.domain_id.as_str()).collect();
    let ids: Vec<String> = ids.into_iter().map(str::to_owned).collect();
    let rows = sqlx::query(
        "SELECT id, tenant_id FROM domains WHERE id = ANY($1) AND deleted_at IS NULL ORDER BY id FOR SHARE SKIP LOCKED",
    )
    .bind(ids)
    .fetch_all(conn)
    .await?;
    let mut held = HashSet::new();
    for row in &rows {
        held.insert((row.try_get::<&str, _>("id")?, row.try_get::<&str, _>("tenant_id")?));
    }
    let is_held = |new: &NewMessage| held.contains(&(&*new.message.domain_id, &*new.message.tenant_id));
    if news.iter().all(is_held) { Ok(()) } else { Err(StoreError::Stale) }
}

/// A column of TEXT that is never NULL.
fn texts<R>(rows: &[R], of: impl Fn(&R) -> &str) -> Vec<String> {
    rows.iter().map(|row| without_nul(of(row).to_owned())).collect()
}

fn optional_texts<R>(rows: &[R], of: impl Fn(&R) -> Option<&String>) -> Vec<Option<String>> {
    rows.iter().map(|row| of(row).cloned().map(without_nul)).collect()
}

fn jsons<R, J: serde::Serialize>(rows: &[R], of: impl Fn(&R) -> &J) -> Result<Vec<String>, StoreError> {
    rows.iter().map(|row| Ok(without_nul(json_text(of(row))?))).collect()
}

type Insert = Query<'static, Postgres, PgArguments>;

fn messages(news: &[NewMessage]) -> Result<Insert, StoreError> {
    let rows: Vec<_> = news.iter().map(|new| &new.message).collect();
    Ok(sqlx::query(
        "INSERT INTO messages (id, tenant_id, message_id, status, from_header, subject, size, domain_id, mail_from,
                               signatures, tags, metadata, warnings, waiting_reason, release_at, expires_at, created_at)
         SELECT * FROM UNNEST($1::TEXT[], $2::TEXT[], $3::TEXT[], $4::TEXT[], $5::TEXT[], $6::TEXT[], $7::BIGINT[],
                              $8::TEXT[], $9::TEXT[], $10::TEXT[], $11::TEXT[], $12::TEXT[], $13::TEXT[], $14::TEXT[],
                              $15::BIGINT[], $16::BIGINT[], $17::BIGINT[])",
    )
    .bind(texts(&rows, |row| &row.id))
    .bind(texts(&rows, |row| &row.tenant_id))
    .bind(texts(&rows, |row| &row.message_id))
    .bind(texts(&rows, |row| &row.status))
    .bind(texts(&rows, |row| &row.from))
    .bind(texts(&rows, |row| &row.subject))
    .bind(rows.iter().map(|row| row.size).collect::<Vec<_>>())
    .bind(texts(&rows, |row| &row.domain_id))
    .bind(optional_texts(&rows, |row| row.mail_from.as_ref()))
    .bind(jsons(&rows, |row| &row.signatures)?)
    .bind(jsons(&rows, |row| &row.tags)?)
    .bind(jsons(&rows, |row| &row.metadata)?)
    .bind(jsons(&rows, |row| &row.warnings)?)
    .bind(optional_texts(&rows, |row| row.waiting_reason.as_ref()))
    .bind(rows.iter().map(|row| row.release_at).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.expires_at).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.created_at).collect::<Vec<_>>()))
}

fn bodies(news: &[NewMessage]) -> Insert {
    sqlx::query(
        "INSERT INTO bodies (message_id, prefix, raw) SELECT * FROM UNNEST($1::TEXT[], $2::BYTEA[], $3::BYTEA[])",
    )
    .bind(texts(news, |new| &new.message.id))
    .bind(news.iter().map(|new| new.body.prefix.clone()).collect::<Vec<_>>())
    .bind(news.iter().map(|new| new.body.raw.clone()).collect::<Vec<_>>())
}

fn recipients(news: &[NewMessage]) -> Insert {
    let of_message = |new: &NewMessage| vec![new.message.id.clone(); new.recipients.len()];
    let messages: Vec<String> = news.iter().flat_map(of_message).collect();
    let rows: Vec<&RecipientRow> = news.iter().flat_map(|new| &new.recipients).collect();
    sqlx::query(
        "INSERT INTO recipients (id, message_id, address, domain, status, attempts, uncertain, last_reply, next_attempt_at)
         SELECT * FROM UNNEST($1::TEXT[], $2::TEXT[], $3::TEXT[], $4::TEXT[], $5::TEXT[], $6::BIGINT[], $7::BOOLEAN[],
                              $8::TEXT[], $9::BIGINT[])",
    )
    .bind(texts(&rows, |row| &row.id))
    .bind(messages)
    .bind(texts(&rows, |row| &row.address))
    .bind(texts(&rows, |row| &row.domain))
    .bind(texts(&rows, |row| &row.status))
    .bind(rows.iter().map(|row| row.attempts).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.uncertain).collect::<Vec<_>>())
    .bind(optional_texts(&rows, |row| row.last_reply.as_ref()))
    .bind(rows.iter().map(|row| row.next_attempt_at).collect::<Vec<_>>())
}

fn events(news: &[NewMessage]) -> Result<Insert, StoreError> {
    let rows: Vec<&EventRow> = news.iter().flat_map(|new| &new.events).collect();
    Ok(sqlx::query(
        "INSERT INTO events (id, tenant_id, kind, at, message_id, recipient_id, domain, details)
         SELECT * FROM UNNEST($1::TEXT[], $2::TEXT[], $3::TEXT[], $4::BIGINT[], $5::TEXT[], $6::TEXT[], $7::TEXT[], $8::TEXT[])",
    )
    .bind(texts(&rows, |row| &row.id))
    .bind(texts(&rows, |row| &row.tenant_id))
    .bind(texts(&rows, |row| &row.kind))
    .bind(rows.iter().map(|row| row.at).collect::<Vec<_>>())
    .bind(optional_texts(&rows, |row| row.message_id.as_ref()))
    .bind(optional_texts(&rows, |row| row.recipient_id.as_ref()))
    .bind(optional_texts(&rows, |row| row.domain.as_ref()))
    .bind(jsons(&rows, |row| &row.details)?))
}

fn audit(news: &[NewMessage]) -> Result<Insert, StoreError> {
    let rows: Vec<&AuditRow> = news.iter().filter_map(|new| new.audit.as_ref()).collect();
    Ok(sqlx::query(
        "INSERT INTO audit (id, tenant_id, actor, action, object, details, request_id, at)
         SELECT * FROM UNNEST($1::TEXT[], $2::TEXT[], $3::TEXT[], $4::TEXT[], $5::TEXT[], $6::TEXT[], $7::TEXT[], $8::BIGINT[])",
    )
    .bind(texts(&rows, |row| &row.id))
    .bind(texts(&rows, |row| &row.tenant_id))
    .bind(texts(&rows, |row| &row.actor))
    .bind(texts(&rows, |row| &row.action))
    .bind(texts(&rows, |row| &row.object))
    .bind(jsons(&rows, |row| &row.details)?)
    .bind(optional_texts(&rows, |row| row.request_id.as_ref()))
    .bind(rows.iter().map(|row| row.at).collect::<Vec<_>>()))
}
