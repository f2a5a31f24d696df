//! One SQL text for both databases: a statement with its values, what it runs on, and the rows it gives.
//!
//! The text is what both understand: `$1` placeholders, ids and JSON as TEXT, times as BIGINT, octets as BLOB or BYTEA.
//! What only one of them has (row locks) is added here and nowhere else.
use crate::StoreError;
use crate::postgres;
use sqlx::postgres::{PgArguments, PgConnection, PgPool, PgRow};
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqlitePool, SqliteRow};
use sqlx::{AssertSqlSafe, Decode, Postgres, Row as _, SqlSafeStr, SqlStr, Sqlite, Transaction, Type};
use std::borrow::Cow;

/// A connection inside a transaction.
pub(crate) enum Connection<'c> {
    Sqlite(&'c mut SqliteConnection),
    Postgres(&'c mut PgConnection),
}

/// Connections for reading; they see committed data only.
pub(crate) enum Readers {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

/// Several reads of one state of the database.
pub(crate) enum Snapshot {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
}

/// A row of either.
pub(crate) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

/// What a statement runs on.
pub(crate) enum On<'a> {
    Sqlite(&'a mut SqliteConnection),
    Postgres(&'a mut PgConnection),
    SqlitePool(&'a SqlitePool),
    PostgresPool(&'a PgPool),
}

/// What a statement changed.
pub(crate) struct Changed(u64);

impl Changed {
    pub(crate) fn rows_affected(&self) -> u64 {
        self.0
    }
}

impl<'a> From<&'a mut Connection<'_>> for On<'a> {
    fn from(conn: &'a mut Connection<'_>) -> Self {
        match conn {
            Connection::Sqlite(conn) => Self::Sqlite(conn),
            Connection::Postgres(conn) => Self::Postgres(conn),
        }
    }
}

impl<'a> From<&'a Readers> for On<'a> {
    fn from(readers: &'a Readers) -> Self {
        match readers {
            Readers::Sqlite(pool) => Self::SqlitePool(pool),
            Readers::Postgres(pool) => Self::PostgresPool(pool),
        }
    }
}

impl<'a> From<&'a mut Snapshot> for On<'a> {
    fn from(snapshot: &'a mut Snapshot) -> Self {
        match snapshot {
            Snapshot::Sqlite(transaction) => Self::Sqlite(transaction),
            Snapshot::Postgres(transaction) => Self::Postgres(transaction),
        }
    }
}

impl Snapshot {
    pub(crate) fn connection(&mut self) -> Connection<'_> {
        match self {
            Self::Sqlite(transaction) => Connection::Sqlite(transaction),
            Self::Postgres(transaction) => Connection::Postgres(transaction),
        }
    }
}

impl Readers {
    pub(crate) async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        Ok(match self {
            Self::Sqlite(pool) => Snapshot::Sqlite(pool.begin().await?),
            Self::Postgres(pool) => {
                let begin = pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
                Snapshot::Postgres(postgres::in_time(begin).await?)
            }
        })
    }

    pub(crate) async fn close(&self) {
        match self {
            Self::Sqlite(pool) => pool.close().await,
            Self::Postgres(pool) => postgres::close(pool).await,
        }
    }
}

impl Row {
    /// The value of a column in one of the types that both databases have.
    pub(crate) fn try_get<'r, T>(&'r self, column: &'static str) -> Result<T, sqlx::Error>
    where
        T: Decode<'r, Sqlite> + Type<Sqlite> + Decode<'r, Postgres> + Type<Postgres>,
    {
        match self {
            Self::Sqlite(row) => row.try_get(column),
            Self::Postgres(row) => row.try_get(column),
        }
    }
}

/// A bound value.
pub(crate) enum Value {
    Text(Option<String>),
    Integer(Option<i64>),
    Boolean(bool),
    Octets(Vec<u8>),
}

macro_rules! value_from {
    ($($from:ty => |$value:ident| $to:expr;)*) => {
        $(impl From<$from> for Value {
            fn from($value: $from) -> Self {
                $to
            }
        })*
    };
}

value_from! {
    &str => |text| Self::Text(Some(text.to_owned()));
    &&str => |text| Self::Text(Some((*text).to_owned()));
    &String => |text| Self::Text(Some(text.clone()));
    String => |text| Self::Text(Some(text));
    Option<&String> => |text| Self::Text(text.cloned());
    &Option<String> => |text| Self::Text(text.clone());
    Option<String> => |text| Self::Text(text);
    i64 => |number| Self::Integer(Some(number));
    Option<i64> => |number| Self::Integer(number);
    bool => |flag| Self::Boolean(flag);
    Vec<u8> => |octets| Self::Octets(octets);
    &Vec<u8> => |octets| Self::Octets(octets.clone());
}

/// A lock on the rows that a SELECT reads. SQLite needs none: it has one writer at a time.
#[derive(Clone, Copy)]
enum Lock {
    None,
    Update,
    Share,
    /// Rows that another transaction has locked are left out.
    SkipLocked,
}

/// An SQL text with its values.
pub(crate) struct Statement {
    text: Cow<'static, str>,
    values: Vec<Value>,
    lock: Lock,
}

/// A statement in words that both databases understand.
pub(crate) fn sql(text: impl Into<Cow<'static, str>>) -> Statement {
    Statement { text: text.into(), values: Vec::new(), lock: Lock::None }
}

/// `before ($1, $2, ...) after` with a value for each.
pub(crate) fn sql_in<'v>(
    before: &'static str,
    values: impl Iterator<Item = &'v String>,
    after: &'static str,
) -> Statement {
    let values: Vec<Value> = values.map(Value::from).collect();
    let marks: Vec<String> = (1..=values.len()).map(|n| format!("${n}")).collect();
    Statement { text: format!("{before} ({}) {after}", marks.join(", ")).into(), values, lock: Lock::None }
}

impl Statement {
    pub(crate) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    /// The rows stay as they were read until the transaction ends.
    pub(crate) fn for_update(self) -> Self {
        Self { lock: Lock::Update, ..self }
    }

    /// As [`Self::for_update`], but others may do so too.
    pub(crate) fn for_share(self) -> Self {
        Self { lock: Lock::Share, ..self }
    }

    /// As [`Self::for_update`]; rows that others have locked are left out.
    pub(crate) fn skip_locked(self) -> Self {
        Self { lock: Lock::SkipLocked, ..self }
    }

    /// Only locks what it selects, so that later statements find it as it is. Several rows are to be ordered, so that no two
    /// transactions wait for each other. Nothing to do on SQLite.
    pub(crate) async fn lock_rows(self, conn: &mut Connection<'_>) -> Result<(), StoreError> {
        match conn {
            Connection::Sqlite(_) => Ok(()),
            Connection::Postgres(conn) => {
                self.for_update().postgres().execute(&mut **conn).await?;
                Ok(())
            }
        }
    }

    pub(crate) async fn execute<'a>(self, on: impl Into<On<'a>>) -> Result<Changed, StoreError> {
        Ok(Changed(match on.into() {
            On::Sqlite(conn) => self.sqlite().execute(conn).await?.rows_affected(),
            On::Postgres(conn) => self.postgres().execute(conn).await?.rows_affected(),
            On::SqlitePool(pool) => self.sqlite().execute(pool).await?.rows_affected(),
            On::PostgresPool(pool) => postgres::in_time(self.postgres().execute(pool)).await?.rows_affected(),
        }))
    }

    pub(crate) async fn fetch_optional<'a>(self, on: impl Into<On<'a>>) -> Result<Option<Row>, StoreError> {
        Ok(match on.into() {
            On::Sqlite(conn) => self.sqlite().fetch_optional(conn).await?.map(Row::Sqlite),
            On::Postgres(conn) => self.postgres().fetch_optional(conn).await?.map(Row::Postgres),
            On::SqlitePool(pool) => self.sqlite().fetch_optional(pool).await?.map(Row::Sqlite),
            On::PostgresPool(pool) => postgres::in_time(self.postgres().fetch_optional(pool)).await?.map(Row::Postgres),
        })
    }

    pub(crate) async fn fetch_one<'a>(self, on: impl Into<On<'a>>) -> Result<Row, StoreError> {
        self.fetch_optional(on).await?.ok_or_else(|| sqlx::Error::RowNotFound.into())
    }

    pub(crate) async fn fetch_all<'a>(self, on: impl Into<On<'a>>) -> Result<Vec<Row>, StoreError> {
        Ok(match on.into() {
            On::Sqlite(conn) => self.sqlite().fetch_all(conn).await?.into_iter().map(Row::Sqlite).collect(),
            On::Postgres(conn) => self.postgres().fetch_all(conn).await?.into_iter().map(Row::Postgres).collect(),
            On::SqlitePool(pool) => self.sqlite().fetch_all(pool).await?.into_iter().map(Row::Sqlite).collect(),
            On::PostgresPool(pool) => {
                let rows = postgres::in_time(self.postgres().fetch_all(pool)).await?;
                rows.into_iter().map(Row::Postgres).collect()
            }
        })
    }

    pub(crate) fn sqlite(self) -> Query<'static, Sqlite, SqliteArguments> {
        let mut query = sqlx::query(safe(self.text));
        for value in self.values {
            query = match value {
                Value::Text(text) => query.bind(text),
                Value::Integer(number) => query.bind(number),
                Value::Boolean(flag) => query.bind(flag),
                Value::Octets(octets) => query.bind(octets),
            };
        }
        query
    }

    fn postgres(self) -> Query<'static, Postgres, PgArguments> {
        let lock = match self.lock {
            Lock::None => None,
            Lock::Update => Some(" FOR UPDATE"),
            Lock::Share => Some(" FOR SHARE"),
            Lock::SkipLocked => Some(" FOR UPDATE SKIP LOCKED"),
        };
        let mut query = sqlx::query(match lock {
            None => safe(self.text),
            Some(lock) => safe((self.text.into_owned() + lock).into()),
        });
        for value in self.values {
            query = match value {
                Value::Text(text) => query.bind(text.map(without_nul)),
                Value::Integer(number) => query.bind(number),
                Value::Boolean(flag) => query.bind(flag),
                Value::Octets(octets) => query.bind(octets),
            };
        }
        query
    }
}

/// Texts are ours: constants, row locks and placeholders. Values are always bound.
fn safe(text: Cow<'static, str>) -> SqlStr {
    match text {
        Cow::Borrowed(text) => SqlStr::from_static(text),
        Cow::Owned(text) => AssertSqlSafe(text).into_sql_str(),
    }
}

/// A TEXT of PostgreSQL cannot hold U+0000. A reply of a mail server, a subject, or an id that a caller made up can.
pub(crate) fn without_nul(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
}
