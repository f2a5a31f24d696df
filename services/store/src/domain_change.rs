//! Changes of a domain and all that belongs to it: compare-and-swap on its version, claims of names, deletion.
use crate::audit::insert_audit;
use crate::delegation::{follow_keys, withdraw_slots};
use crate::domains::{insert_check, name_version};
use crate::events::insert_event;
use crate::key_life::{write_life, write_policy};
use crate::queue::refresh_status;
use crate::statement::{Connection, sql};
use crate::watch::{forget_wrong_record, write_watch};
use crate::{AuditRow, Claim, DomainChange, EventRow, KeyChange, Store, StoreError};
use serde_json::json;
use std::collections::BTreeSet;

/// How often a deletion is tried again because mail came in after its events were counted.
const DELETE_TRIES: usize = 8;

impl Store {
    /// Applies a change if the domain still has `seen_version` (`Stale` otherwise; `Contested` if the claim's version moved).
    /// A claim names the domain's own name; any other is `Contested`.
    pub async fn change_domain(
        &self,
        tenant: &str,
        domain_id: &str,
        seen_version: i64,
        change: &DomainChange,
    ) -> Result<(), StoreError> {
        let _moves = self.moves_rights();
        let (tenant, domain_id, change) = (tenant.to_owned(), domain_id.to_owned(), change.clone());
        let wipes = change.keys.iter().any(|key| key.wipe);
        self.write(move |conn| Box::pin(async move { apply(conn, &tenant, &domain_id, seen_version, &change).await }))
            .await?;
        if wipes {
            self.scrub_log().await;
        }
        Ok(())
    }

    /// Deletes: the row is marked, the name given up, keys `revoked` and wiped, waiting recipients and messages signed by or waiting for this
    /// domain `cancelled` with an event each. False if there is none. `event_id` makes ids for those events.
    /// A recipient that is being sent to is left to its worker; what would make it wait again makes it `cancelled`.
    pub async fn delete_domain(
        &self,
        tenant: &str,
        domain_id: &str,
        at: i64,
        event_id: &(dyn Fn() -> String + Send + Sync),
        audit: &AuditRow,
    ) -> Result<bool, StoreError> {
        self.delete(tenant, domain_id, at, event_id, audit, false).await
    }

    /// The same if the domain was never proven; false if there is none, or it is proven by now.
    pub async fn delete_unproven_domain(
        &self,
        tenant: &str,
        domain_id: &str,
        at: i64,
        event_id: &(dyn Fn() -> String + Send + Sync),
        audit: &AuditRow,
    ) -> Result<bool, StoreError> {
        self.delete(tenant, domain_id, at, event_id, audit, true).await
    }

    async fn delete(
        &self,
        tenant: &str,
        domain_id: &str,
        at: i64,
        event_id: &(dyn Fn() -> String + Send + Sync),
        audit: &AuditRow,
        only_unproven: bool,
    ) -> Result<bool, StoreError> {
        let _moves = self.moves_rights();
        for _ in 0..DELETE_TRIES {
            // The ids are made here, since `event_id` does not outlive this call; some more than needed, as mail may come in meanwhile.
            let needed = self.count_waiting(tenant, domain_id).await? + self.count_keys(tenant, domain_id).await?;
            let ids: Vec<String> = (0..needed + needed / 4 + 16).map(|_| event_id()).collect();
            let deletion = Deletion {
                tenant: tenant.to_owned(),
                domain_id: domain_id.to_owned(),
                at,
                ids,
                audit: audit.clone(),
                only_unproven,
            };
            match self.write(move |conn| Box::pin(deletion.run(conn))).await {
                Err(StoreError::Stale) => {}
                Ok(true) => {
                    self.scrub_log().await;
                    return Ok(true);
                }
                other => return other,
            }
        }
        Err(StoreError::Stale)
    }

    /// Keys that a deletion revokes.
    async fn count_keys(&self, tenant: &str, domain_id: &str) -> Result<i64, StoreError> {
        let row = sql("SELECT COUNT(*) AS n FROM dkim_keys
                       WHERE tenant_id = $1 AND domain_id = $2 AND state <> 'revoked'")
        .bind(tenant)
        .bind(domain_id)
        .fetch_one(self.readers())
        .await?;
        Ok(row.try_get("n")?)
    }

    async fn count_waiting(&self, tenant: &str, domain_id: &str) -> Result<i64, StoreError> {
        let row = sql("SELECT COUNT(*) AS n FROM recipients JOIN messages ON messages.id = recipients.message_id
                       WHERE messages.tenant_id = $1 AND messages.domain_id = $2
                       AND messages.status IN
                           ('queued', 'deferred', 'sending', 'scheduled', 'held', 'awaiting_signature')
                       AND recipients.status IN ('queued', 'deferred', 'scheduled', 'held', 'awaiting_signature')")
        .bind(tenant)
        .bind(domain_id)
        .fetch_one(self.readers())
        .await?;
        Ok(row.try_get("n")?)
    }
}

async fn apply(
    conn: &mut Connection<'_>,
    tenant: &str,
    domain_id: &str,
    seen_version: i64,
    change: &DomainChange,
) -> Result<(), StoreError> {
    if let Some(claim) = &change.claim {
        // Before the domains: claims of one name that met at each other's domains would wait for each other.
        sql("SELECT 1 FROM names WHERE name = $1").bind(&claim.name).lock_rows(conn).await?;
    }
    let row = sql("SELECT name, version FROM domains WHERE tenant_id = $1 AND id = $2 AND deleted_at IS NULL")
        .bind(tenant)
        .bind(domain_id)
        .for_update()
        .fetch_optional(&mut *conn)
        .await?
        .ok_or(StoreError::Stale)?;
    if row.try_get::<i64>("version")? != seen_version {
        return Err(StoreError::Stale);
    }
    if let Some(claim) = &change.claim {
        if claim.name != row.try_get::<&str>("name")? {
            return Err(StoreError::Contested);
        }
        take_name(conn, domain_id, claim).await?;
    }
    update_domain(conn, tenant, domain_id, change).await?;
    if let Some(policy) = &change.policy {
        write_policy(conn, tenant, domain_id, policy).await?;
    }
    for key in &change.keys {
        update_key(conn, tenant, domain_id, key).await?;
    }
    if change.keys.iter().any(|key| key.state.is_some()) {
        follow_keys(conn, domain_id).await?;
    }
    if change.needs_another_key {
        forget_wrong_record(conn, tenant, domain_id).await?;
    }
    if let Some(watch) = &change.watch {
        write_watch(conn, tenant, domain_id, watch).await?;
    }
    if let Some(check) = &change.check {
        insert_check(conn, tenant, domain_id, check).await?;
    }
    for event in &change.events {
        insert_event(conn, event).await?;
    }
    for audit in &change.audit {
        insert_audit(conn, audit).await?;
    }
    Ok(())
}

/// Compare-and-swap on the name's version. Who owns it already keeps it as it is, with the time of the first proof.
async fn take_name(conn: &mut Connection<'_>, domain_id: &str, claim: &Claim) -> Result<(), StoreError> {
    let seen = name_version(&mut *conn, &claim.name).await?;
    if seen.version != claim.seen_version {
        return Err(StoreError::Contested);
    }
    if seen.owner.as_ref().is_some_and(|owner| owner.domain_id == domain_id) {
        return Ok(());
    }
    // Compared once more: a name that nobody ever had has no row that could have been locked.
    let taken = sql("INSERT INTO names (name, owner_domain_id, version, proven_at) VALUES ($1, $2, 1, $3)
                     ON CONFLICT (name) DO UPDATE SET owner_domain_id = $2, version = names.version + 1, proven_at = $3
                     WHERE names.version = $4")
    .bind(&claim.name)
    .bind(domain_id)
    .bind(claim.at)
    .bind(claim.seen_version)
    .execute(&mut *conn)
    .await?;
    if taken.rows_affected() == 0 {
        return Err(StoreError::Contested);
    }
    let Some(loser) = seen.owner else { return Ok(()) };
    let before = sql("SELECT signing FROM domains WHERE id = $1 AND tenant_id = $2")
        .bind(&loser.domain_id)
        .bind(&loser.tenant_id)
        .for_update()
        .fetch_optional(&mut *conn)
        .await?;
    sql("UPDATE domains SET ownership = 'lost', signing = 'suspended', signing_reason = 'ownership_lost',
                version = version + 1 WHERE id = $1 AND tenant_id = $2")
    .bind(&loser.domain_id)
    .bind(&loser.tenant_id)
    .execute(&mut *conn)
    .await?;
    withdraw_slots(conn, &loser.domain_id).await?;
    if let Some(event) = &claim.loser_event {
        // Whoever made the event: it is the loser's.
        let event = EventRow { tenant_id: loser.tenant_id, ..event.clone() };
        insert_event(conn, &event).await?;
        let signing = before.map(|row| row.try_get::<String>("signing")).transpose()?;
        // Its id is that of the event: they tell of the same, in two tables.
        let row = AuditRow {
            id: event.id,
            tenant_id: event.tenant_id,
            actor: "system".into(),
            action: "domain.ownership_lost".into(),
            object: loser.domain_id.clone(),
            domain_id: Some(loser.domain_id),
            details: json!({
                "before": {"ownership": "verified", "signing": signing},
                "after": {"ownership": "lost", "signing": "suspended"},
            }),
            request_id: None,
            at: claim.at,
        };
        insert_audit(conn, &row).await?;
    }
    Ok(())
}

async fn update_domain(
    conn: &mut Connection<'_>,
    tenant: &str,
    domain_id: &str,
    change: &DomainChange,
) -> Result<(), StoreError> {
    sql("UPDATE domains SET version = version + 1 WHERE tenant_id = $1 AND id = $2")
        .bind(tenant)
        .bind(domain_id)
        .execute(&mut *conn)
        .await?;
    if let Some((ownership, proven_at)) = &change.ownership {
        sql("UPDATE domains SET ownership = $3, proven_at = COALESCE($4, proven_at) WHERE tenant_id = $1 AND id = $2")
            .bind(tenant)
            .bind(domain_id)
            .bind(ownership)
            .bind(*proven_at)
            .execute(&mut *conn)
            .await?;
    }
    if let Some((signing, reason)) = &change.signing {
        sql("UPDATE domains SET signing = $3, signing_reason = $4 WHERE tenant_id = $1 AND id = $2")
            .bind(tenant)
            .bind(domain_id)
            .bind(signing)
            .bind(reason)
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

async fn update_key(
    conn: &mut Connection<'_>,
    tenant: &str,
    domain_id: &str,
    change: &KeyChange,
) -> Result<(), StoreError> {
    let (p, read_at) = match &change.published {
        Some((p, at)) => (Some(p), Some(*at)),
        None => (None, None),
    };
    // What was asked of DNS before the latest question that is recorded changes nothing.
    let updated = sql("UPDATE dkim_keys SET state = COALESCE($4, state),
                              published_p = CASE WHEN $6 >= COALESCE(published_tried_at, 0) THEN $5 ELSE published_p END,
                              published_read_at = CASE WHEN $6 >= COALESCE(published_tried_at, 0) THEN $6
                                                  ELSE published_read_at END,
                              published_tried_at = CASE WHEN $6 >= COALESCE(published_tried_at, 0) THEN $6
                                                   ELSE published_tried_at END,
                              sealed = CASE WHEN $7 THEN $8 ELSE sealed END
                       WHERE tenant_id = $1 AND domain_id = $2 AND id = $3")
    .bind(tenant)
    .bind(domain_id)
    .bind(&change.key_id)
    .bind(&change.state)
    .bind(p)
    .bind(read_at)
    .bind(change.wipe)
    .bind(Vec::<u8>::new())
    .execute(&mut *conn)
    .await?;
    if updated.rows_affected() == 0 {
        return Err(StoreError::Stale);
    }
    match &change.life {
        Some(life) => write_life(conn, tenant, &change.key_id, life).await,
        None => Ok(()),
    }
}

struct Deletion {
    tenant: String,
    domain_id: String,
    at: i64,
    ids: Vec<String>,
    audit: AuditRow,
    only_unproven: bool,
}

impl Deletion {
    /// `Stale`: there are fewer ids than recipients to cancel.
    async fn run(self, conn: &mut Connection<'_>) -> Result<bool, StoreError> {
        // Before the domain, as claims do.
        sql("SELECT 1 FROM names WHERE owner_domain_id = $1 ORDER BY name")
            .bind(&self.domain_id)
            .lock_rows(conn)
            .await?;
        let row = sql("UPDATE domains SET deleted_at = $3, signing = 'disabled', signing_reason = NULL,
                              version = version + 1
                       WHERE tenant_id = $1 AND id = $2 AND deleted_at IS NULL
                       AND (NOT $4 OR ownership = 'pending') RETURNING name")
        .bind(&self.tenant)
        .bind(&self.domain_id)
        .bind(self.at)
        .bind(self.only_unproven)
        .fetch_optional(&mut *conn)
        .await?;
        let Some(row) = row else { return Ok(false) };
        let name: String = row.try_get("name")?;
        sql("UPDATE names SET owner_domain_id = NULL, proven_at = NULL, version = version + 1
             WHERE owner_domain_id = $1")
        .bind(&self.domain_id)
        .execute(&mut *conn)
        .await?;
        withdraw_slots(conn, &self.domain_id).await?;
        insert_audit(conn, &self.audit).await?;
        let mut ids = self.ids.iter();
        self.revoke_keys(conn, &mut ids).await?;
        self.cancel_mail(conn, &name, ids).await?;
        Ok(true)
    }

    /// With an audit row each, by who deletes the domain.
    async fn revoke_keys(
        &self,
        conn: &mut Connection<'_>,
        ids: &mut std::slice::Iter<'_, String>,
    ) -> Result<(), StoreError> {
        let keys = sql("SELECT id, state FROM dkim_keys
                        WHERE tenant_id = $1 AND domain_id = $2 AND state <> 'revoked' ORDER BY id")
        .bind(&self.tenant)
        .bind(&self.domain_id)
        .fetch_all(&mut *conn)
        .await?;
        for key in keys {
            let (object, state): (String, String) = (key.try_get("id")?, key.try_get("state")?);
            let row = AuditRow {
                id: ids.next().ok_or(StoreError::Stale)?.clone(),
                action: "key.revoked".into(),
                object,
                domain_id: Some(self.domain_id.clone()),
                details: json!({"before": state, "after": "revoked", "reason": "domain_deleted"}),
                ..self.audit.clone()
            };
            insert_audit(conn, &row).await?;
        }
        sql("UPDATE dkim_keys SET state = 'revoked', sealed = $3, state_since = $4
             WHERE tenant_id = $1 AND domain_id = $2 AND state <> 'revoked'")
        .bind(&self.tenant)
        .bind(&self.domain_id)
        .bind(Vec::<u8>::new())
        .bind(self.at)
        .execute(conn)
        .await?;
        Ok(())
    }

    /// The condition on the message's status only narrows the search: what is delivered long since is not read again.
    async fn cancel_mail(
        &self,
        conn: &mut Connection<'_>,
        name: &str,
        mut ids: std::slice::Iter<'_, String>,
    ) -> Result<(), StoreError> {
        sql("SELECT 1 FROM messages WHERE tenant_id = $1 AND domain_id = $2 AND status IN
                 ('queued', 'deferred', 'sending', 'scheduled', 'held', 'awaiting_signature') ORDER BY id")
        .bind(&self.tenant)
        .bind(&self.domain_id)
        .lock_rows(conn)
        .await?;
        let rows = sql("SELECT recipients.id, recipients.message_id FROM recipients
                        JOIN messages ON messages.id = recipients.message_id
                        WHERE messages.tenant_id = $1 AND messages.domain_id = $2
                        AND messages.status IN
                            ('queued', 'deferred', 'sending', 'scheduled', 'held', 'awaiting_signature')
                        AND recipients.status IN ('queued', 'deferred', 'scheduled', 'held', 'awaiting_signature')
                        ORDER BY recipients.id")
        .bind(&self.tenant)
        .bind(&self.domain_id)
        .fetch_all(&mut *conn)
        .await?;
        let mut messages = BTreeSet::new();
        for row in rows {
            let (recipient_id, message_id): (String, String) = (row.try_get("id")?, row.try_get("message_id")?);
            sql("UPDATE recipients SET status = 'cancelled', next_attempt_at = NULL WHERE id = $1")
                .bind(&recipient_id)
                .execute(&mut *conn)
                .await?;
            let event = EventRow {
                id: ids.next().ok_or(StoreError::Stale)?.clone(),
                tenant_id: self.tenant.clone(),
                kind: "message.cancelled".into(),
                at: self.at,
                message_id: Some(message_id.clone()),
                recipient_id: Some(recipient_id),
                domain: Some(name.to_owned()),
                details: json!({ "reason": "domain_deleted" }),
            };
            insert_event(conn, &event).await?;
            messages.insert(message_id);
        }
        for message_id in messages {
            // A release that is under way finds its claim gone.
            sql("UPDATE messages SET release_at = NULL, waiting_reason = NULL, worker_id = NULL, epoch = NULL
                 WHERE id = $1")
            .bind(&message_id)
            .execute(&mut *conn)
            .await?;
            refresh_status(conn, &message_id).await?;
        }
        Ok(())
    }
}
