//! Octets of messages. Long ones lie in pieces: a database driver copies each value it writes or reads, some of them twice,
//! and one copy of a message is all that a process should need memory for.
use crate::statement::{Connection, Row, sql};
use crate::{Store, StoreError};

/// Octets of a piece. `bodies.raw` is the first one, `body_pieces` are the rest.
pub(crate) const PIECE: usize = 1 << 20;

/// Octets of a message: what is sent is `prefix` + `raw`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageBody {
    /// Received and our DKIM-Signature fields; no signature while unsigned.
    pub prefix: Vec<u8>,
    /// The message as built or accepted.
    pub raw: Vec<u8>,
}

impl Store {
    /// Octets.
    pub async fn message_body(&self, tenant: &str, id: &str) -> Result<Option<MessageBody>, StoreError> {
        let row = sql("SELECT bodies.prefix, bodies.raw FROM bodies JOIN messages ON messages.id = bodies.message_id
                       WHERE messages.tenant_id = $1 AND messages.id = $2")
        .bind(tenant)
        .bind(id)
        .fetch_optional(self.readers())
        .await?;
        self.whole(id, row).await
    }

    /// Octets of a claimed message.
    pub async fn delivery_body(&self, message_id: &str) -> Result<Option<MessageBody>, StoreError> {
        let row = sql("SELECT prefix, raw FROM bodies WHERE message_id = $1")
            .bind(message_id)
            .fetch_optional(self.readers())
            .await?;
        self.whole(message_id, row).await
    }

    /// Most messages are their first piece. The others are read once more, now as of one moment.
    async fn whole(&self, message_id: &str, row: Option<Row>) -> Result<Option<MessageBody>, StoreError> {
        let Some(row) = row else { return Ok(None) };
        let body = first(&row)?;
        if body.raw.len() < PIECE {
            return Ok(Some(body));
        }
        drop((row, body));
        let mut snapshot = self.readers().snapshot().await?;
        read(&mut snapshot.connection(), message_id).await.map(Some)
    }
}

fn first(row: &Row) -> Result<MessageBody, StoreError> {
    Ok(MessageBody { prefix: row.try_get("prefix")?, raw: row.try_get("raw")? })
}

/// The octets of a message that is known to be there.
pub(crate) async fn read(conn: &mut Connection<'_>, message_id: &str) -> Result<MessageBody, StoreError> {
    let row =
        sql("SELECT prefix, raw FROM bodies WHERE message_id = $1").bind(message_id).fetch_one(&mut *conn).await?;
    let mut body = first(&row)?;
    drop(row);
    if body.raw.len() < PIECE {
        return Ok(body);
    }
    let further: i64 = sql("SELECT COUNT(*) AS n FROM body_pieces WHERE message_id = $1")
        .bind(message_id)
        .fetch_one(&mut *conn)
        .await?
        .try_get("n")?;
    // At once, with room for the prefix: what grows step by step is copied, and lies in memory twice meanwhile.
    let pieces = usize::try_from(further).unwrap_or_default();
    body.raw.reserve_exact(pieces * PIECE + body.prefix.len());
    for place in 1..=further {
        let row = sql("SELECT octets FROM body_pieces WHERE message_id = $1 AND place = $2")
            .bind(message_id)
            .bind(place)
            .fetch_one(&mut *conn)
            .await?;
        body.raw.extend_from_slice(row.try_get("octets")?);
    }
    Ok(body)
}

pub(crate) async fn insert(conn: &mut Connection<'_>, message_id: &str, body: MessageBody) -> Result<(), StoreError> {
    insert_further(conn, message_id, &body.raw).await?;
    sql("INSERT INTO bodies (message_id, prefix, raw) VALUES ($1, $2, $3)")
        .bind(message_id)
        .bind(body.prefix)
        .bind(first_piece(body.raw))
        .execute(conn)
        .await?;
    Ok(())
}

/// Instead of what is there.
pub(crate) async fn replace(conn: &mut Connection<'_>, message_id: &str, body: MessageBody) -> Result<(), StoreError> {
    sql("DELETE FROM body_pieces WHERE message_id = $1").bind(message_id).execute(&mut *conn).await?;
    insert_further(conn, message_id, &body.raw).await?;
    sql("UPDATE bodies SET prefix = $2, raw = $3 WHERE message_id = $1")
        .bind(message_id)
        .bind(body.prefix)
        .bind(first_piece(body.raw))
        .execute(conn)
        .await?;
    Ok(())
}

async fn insert_further(conn: &mut Connection<'_>, message_id: &str, raw: &[u8]) -> Result<(), StoreError> {
    for (place, octets) in (1..).zip(raw.chunks(PIECE).skip(1)) {
        sql("INSERT INTO body_pieces (message_id, place, octets) VALUES ($1, $2, $3)")
            .bind(message_id)
            .bind(place)
            .bind(octets.to_vec())
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

fn first_piece(raw: Vec<u8>) -> Vec<u8> {
    match raw.get(..PIECE) {
        Some(first) => first.to_vec(),
        None => raw,
    }
}
