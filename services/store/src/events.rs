//! Events (DESIGN: Event).
use crate::db::{json, json_text, page, page_probe};
use crate::statement::{Connection, Row, sql};
use crate::{Page, Store, StoreError};

/// One event.
#[derive(Debug, Clone)]
pub struct EventRow {
    /// Id.
    pub id: String,
    /// Tenant.
    pub tenant_id: String,
    /// `message.accepted`, `domain.verified`, ...
    pub kind: String,
    /// When.
    pub at: i64,
    /// Message id.
    pub message_id: Option<String>,
    /// Recipient id.
    pub recipient_id: Option<String>,
    /// Domain name.
    pub domain: Option<String>,
    /// JSON object.
    pub details: serde_json::Value,
}

impl Store {
    /// Events of one message, oldest first. `Ok(None)` if the tenant has no such message.
    pub async fn message_events(
        &self,
        tenant: &str,
        message_id: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Option<Page<EventRow>>, StoreError> {
        let mut snapshot = self.readers().snapshot().await?;
        let message = sql("SELECT 1 FROM messages WHERE tenant_id = $1 AND id = $2")
            .bind(tenant)
            .bind(message_id)
            .fetch_optional(&mut snapshot)
            .await?;
        if message.is_none() {
            return Ok(None);
        }
        let query = match after {
            Some(after) => sql("SELECT * FROM events WHERE tenant_id = $1 AND message_id = $2
                                AND (at, id) > (SELECT at, id FROM events WHERE id = $4 AND message_id = $2)
                                ORDER BY at, id LIMIT $3")
            .bind(tenant)
            .bind(message_id)
            .bind(page_probe(limit))
            .bind(after),
            None => sql("SELECT * FROM events WHERE tenant_id = $1 AND message_id = $2 ORDER BY at, id LIMIT $3")
                .bind(tenant)
                .bind(message_id)
                .bind(page_probe(limit)),
        };
        let rows = query.fetch_all(&mut snapshot).await?;
        let rows = rows.iter().map(event).collect::<Result<Vec<_>, _>>()?;
        Ok(Some(page(rows, limit, |row| &row.id)))
    }
}

pub(crate) async fn insert_event(conn: &mut Connection<'_>, row: &EventRow) -> Result<(), StoreError> {
    sql("INSERT INTO events (id, tenant_id, kind, at, message_id, recipient_id, domain, details)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)")
    .bind(&row.id)
    .bind(&row.tenant_id)
    .bind(&row.kind)
    .bind(row.at)
    .bind(&row.message_id)
    .bind(&row.recipient_id)
    .bind(&row.domain)
    .bind(json_text(&row.details)?)
    .execute(conn)
    .await?;
    Ok(())
}

fn event(row: &Row) -> Result<EventRow, StoreError> {
    Ok(EventRow {
        id: row.try_get("id")?,
        tenant_id: row.try_get("tenant_id")?,
        kind: row.try_get("kind")?,
        at: row.try_get("at")?,
        message_id: row.try_get("message_id")?,
        recipient_id: row.try_get("recipient_id")?,
        domain: row.try_get("domain")?,
        details: json(row, "details")?,
    })
}
