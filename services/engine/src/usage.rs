//! What tenants used: counted in memory, written in batches, so that a signature costs no row.
use crate::rows::UsageRow;
use crate::{Engine, Error};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

const DAY_MS: i64 = 24 * 3600 * 1000;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Used {
    /// POST /sign.
    Signature,
    /// A message that was accepted.
    Message,
}

impl Used {
    fn as_str(self) -> &'static str {
        match self {
            Self::Signature => "signature",
            Self::Message => "message",
        }
    }
}

/// Counts that are not written yet, by tenant, start of the day and kind.
#[derive(Debug, Default)]
pub(crate) struct Counts(Mutex<HashMap<(String, i64, Used), i64>>);

impl Counts {
    fn add(&self, key: (String, i64, Used), count: i64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default() += count;
    }

    /// Of all tenants, days and kinds.
    #[cfg(test)]
    pub(crate) fn total(&self) -> i64 {
        self.0.lock().unwrap().values().sum()
    }

    fn take(&self) -> HashMap<(String, i64, Used), i64> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Engine {
    /// One more of it, today.
    pub(crate) fn count(&self, tenant: &str, used: Used) {
        let today = self.now_ms().div_euclid(DAY_MS) * DAY_MS;
        self.inner.counts.add((tenant.to_owned(), today, used), 1);
    }

    /// Writes what was counted since the last call. Called every few seconds and at shutdown. If it fails, the counts stay for
    /// the next call; where only the answer to the commit was lost, they are written twice. A process that is killed loses
    /// what it counted since.
    pub async fn flush_usage(&self) -> Result<(), Error> {
        let counts = self.inner.counts.take();
        if counts.is_empty() {
            return Ok(());
        }
        let rows: Vec<UsageRow> = counts
            .iter()
            .map(|((tenant, day, used), count)| UsageRow {
                tenant_id: tenant.clone(),
                day: *day,
                kind: used.as_str().to_owned(),
                count: *count,
            })
            .collect();
        let written = self.inner.store.add_usage(&rows).await;
        if written.is_err() {
            counts.into_iter().for_each(|(key, count)| self.inner.counts.add(key, count));
        }
        Ok(written?)
    }
}
