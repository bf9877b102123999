//! The audit log in PostgreSQL.

use async_trait::async_trait;

use super::codec::{column, decode, encode, id, number};
use super::database::{Db, Statement};
use super::params;
use crate::audit::{AuditFilter, AuditId, AuditPage, AuditRecord, Class};
use crate::store::{AuditStore, StoreError, readable};

/// Records read at a time.
const PAGE: usize = 500;

/// The audit log.
#[derive(Debug)]
pub struct PgAudit(pub Db);

#[async_trait]
impl AuditStore for PgAudit {
    async fn add(&self, records: &[AuditRecord]) -> Result<(), StoreError> {
        self.0.execute_all(vec![put(records)]).await.map(|_| ())
    }

    async fn page(&self, filter: &AuditFilter, limit: usize, look: usize) -> Result<AuditPage, StoreError> {
        let (low, mut high) = filter.bounds();
        let (mut page, mut looked) = (AuditPage::default(), 0);
        let mut last = None;
        loop {
            // One more than may be looked at, which tells whether there is more.
            let some = PAGE.min((look - looked).saturating_add(1));
            let sql = "SELECT id, record FROM {s}.audit WHERE id >= $1 AND ($2::uuid IS NULL OR id < $2) \
                       ORDER BY id DESC LIMIT $3";
            let params = vec![
                params::id(low.to_bytes()),
                params::maybe_id(high.map(AuditId::to_bytes)),
                params::number(some as u64),
            ];
            let rows = self.0.rows(sql, params).await?;
            for row in &rows {
                if page.records.len() >= limit || looked >= look {
                    page.next = last;
                    return Ok(page);
                }
                looked += 1;
                last = Some(AuditId::from_bytes(id(row, 0)?));
                let record: Result<AuditRecord, _> =
                    decode(|| "a record of the audit log".to_owned(), &column::<String>(row, 1)?);
                page.records.extend(readable(record)?.filter(|record| filter.lets_through(record)));
            }
            if rows.len() < some {
                return Ok(page);
            }
            high = last;
        }
    }

    async fn count(&self) -> Result<[usize; 2], StoreError> {
        let mut counts = [0; 2];
        for row in self.0.rows("SELECT class, count(*) FROM {s}.audit GROUP BY class", Vec::new()).await? {
            let class = usize::from(column::<i16>(&row, 0)? != Class::Done as i16);
            counts[class] += usize::try_from(number(&row, 1)?).unwrap_or(usize::MAX);
        }
        Ok(counts)
    }

    async fn remove_oldest(
        &self,
        class: Class,
        before: Option<AuditId>,
        most: usize,
    ) -> Result<usize, StoreError> {
        let sql = "DELETE FROM {s}.audit WHERE (class, id) IN (SELECT class, id FROM {s}.audit WHERE class = $1 \
                   AND ($2::uuid IS NULL OR id < $2) ORDER BY id LIMIT $3)";
        let params = vec![
            params::small(class as i16),
            params::maybe_id(before.map(AuditId::to_bytes)),
            params::number(most as u64),
        ];
        let removed = self.0.execute(sql, params).await?;
        Ok(usize::try_from(removed).unwrap_or(usize::MAX))
    }
}

/// Adds records, each once.
pub fn put(records: &[AuditRecord]) -> Statement {
    let mut records: Vec<_> = records.iter().collect();
    records.sort_by_key(|record| (record.class() as u8, record.id));
    records.dedup_by_key(|record| record.id);
    Statement::new(
        "INSERT INTO {s}.audit (class, id, record) SELECT * FROM unnest($1, $2, $3) \
         ON CONFLICT (class, id) DO UPDATE SET record = EXCLUDED.record",
        vec![
            params::smalls(records.iter().map(|record| record.class() as i16).collect()),
            params::ids(records.iter().map(|record| record.id.to_bytes())),
            params::texts(records.iter().map(|record| encode(*record)).collect()),
        ],
    )
}
