//! Settings of the store and what is kept in it.

use super::{HOUR_MS, MILLISECONDS, U32, integer, key, secret};
use crate::config::keys::{Key, Kind};

/// `[storage]`
pub const STORAGE: &[Key] = &[
    key(
        "storage.path",
        Kind::Path,
        "Folder of all data of the server, including unpacked model files (`--data-dir`).",
    ),
    key(
        "storage.kind",
        Kind::Choice(&["sled", "postgres"]),
        "Database of users, keys, sessions, conversations, responses, usage and the audit log: embedded in the data folder, or a PostgreSQL server (`docs/postgresql.md`).",
    ),
    secret(key(
        "storage.url",
        Kind::Text,
        "Of the PostgreSQL database: `postgres://USER:PASSWORD@HOST:PORT/DATABASE`, with `?host=/FOLDER` for a Unix socket. TLS that verifies the host is the default for other machines (`sslmode=verify-full`, `sslrootcert=FILE`); `sslmode=disable` turns it off.",
    )),
    key(
        "storage.url_file",
        Kind::Path,
        "File with that URL, in place of `storage.url`, so that no password stands in the configuration.",
    ),
    secret(key(
        "storage.direct_url",
        Kind::Text,
        "URL past a connection pooler such as pgbouncer, for migrations and notifications. Unset: `storage.url`.",
    )),
    key("storage.direct_url_file", Kind::Path, "File with that URL, in place of `storage.direct_url`."),
    key(
        "storage.schema",
        Kind::Text,
        "Schema of this server's tables, which is created where it is missing: up to 40 lower-case letters, digits and underscores, beginning with a letter.",
    ),
    key(
        "storage.pool_size",
        integer(4, 1000, "connections"),
        "Maximum number of connections of this server to PostgreSQL, two of which are for changes alone; beside them there are one for notifications and one for changes of credentials.",
    ),
    key(
        "storage.connect_timeout_ms",
        integer(100, 60_000, MILLISECONDS),
        "Maximum time to connect to PostgreSQL, and to wait for a free connection of the pool.",
    ),
    key(
        "storage.statement_timeout_ms",
        integer(100, HOUR_MS, MILLISECONDS),
        "Maximum time of one statement in PostgreSQL; it is cancelled then.",
    ),
    key(
        "storage.key_file",
        Kind::Path,
        "File of 16 to 65536 bytes with which the keys that sign tokens are encrypted, to be exchanged through PostgreSQL; random ones, e.g. from `head -c 32 /dev/urandom`, and the same on every server. Unset: each server signs with the keys in its own data folder.",
    ),
    key(
        "storage.shared",
        Kind::Flag,
        "Whether several servers may use the schema at the same time; without it, a server refuses to start while another one runs there. `docs/postgresql.md` says what they share and what they do not.",
    ),
    key(
        "storage.allow_unsafe_durability",
        Kind::Flag,
        "Whether to start on a PostgreSQL server that acknowledges changes before they are on disk (`fsync`, `full_page_writes` or `synchronous_commit` is off). What was acknowledged is lost when it crashes.",
    ),
    key(
        "storage.min_free_mib",
        integer(0, U32, "MiB"),
        "Minimum free space on its disk, with `storage.kind = \"sled\"`; below it every write gets 507 `insufficient_storage`, while reads continue. 0: writes continue until the disk is full.",
    ),
    key(
        "storage.cache_mib",
        integer(0, 1 << 20, "MiB"),
        "Maximum memory of the database's read cache, at least 8. More of it serves users with very many conversations faster. 0: a sixteenth of the machine's memory, from 64 to 1024.",
    ),
    key(
        "storage.kv_mib",
        integer(0, 1 << 24, "MiB"),
        "Maximum size of the prefix cache on disk, in `kv` of the data folder: computed prompt prefixes that left `engine.cache_ram_mib`, and at a graceful stop all of them, so that a conversation's next turn after a restart reads only what is new. At most half of the space that is free on the disk. 0: nothing is kept.",
    ),
    key(
        "storage.kv_key_file",
        Kind::Path,
        "File of 16 to 65536 bytes outside the data folder whose contents are the key that the prefix cache on disk is encrypted with; random ones, e.g. from `head -c 32 /dev/urandom`. Unset: a random key beside the files, which then protects them from being mixed up or changed, but not from readers of the data folder. With another key than before, the old files are removed.",
    ),
    key(
        "storage.max_user_mib",
        integer(0, 1 << 20, "MiB"),
        "Maximum size of one user's conversations and responses; beyond it 507 `storage_quota_exceeded`. 0: no limit.",
    ),
    key(
        "storage.max_user_conversations",
        integer(0, U32, "conversations"),
        "Maximum number of conversations of one user. 0: no limit.",
    ),
    key(
        "storage.max_user_responses",
        integer(0, U32, "responses"),
        "Maximum number of stored responses of one user; those that `responses.retention_days` deletes do not count. 0: no limit.",
    ),
    key(
        "storage.max_guest_mib",
        integer(0, 1 << 20, "MiB"),
        "Maximum size of one guest's conversations and responses. 0: no limit.",
    ),
    key(
        "storage.max_guest_conversations",
        integer(0, U32, "conversations"),
        "Maximum number of conversations of one guest. 0: no limit.",
    ),
    key(
        "storage.max_guest_responses",
        integer(0, U32, "responses"),
        "Maximum number of stored responses of one guest. 0: no limit.",
    ),
];

/// `[conversations]`
pub const CONVERSATIONS: &[Key] = &[
    key("conversations.max_title_chars", integer(1, 10_000, "characters"), "Maximum length of a title."),
    key(
        "conversations.max_metadata_pairs",
        integer(0, 1000, "pairs"),
        "Maximum number of pairs of `metadata`.",
    ),
    key(
        "conversations.max_item_bytes",
        integer(1024, 16 << 20, "bytes"),
        "Maximum size of an item, as JSON. An answer may be larger; the context bounds it.",
    ),
    key(
        "conversations.max_items",
        integer(1, 1_000_000, "items"),
        "Maximum number of items of one conversation, including those of all branches and deleted ones.",
    ),
    key(
        "conversations.max_bytes",
        integer(1024, 1 << 30, "bytes"),
        "Maximum size of one conversation's items, as JSON.",
    ),
    key(
        "conversations.turn_wait_ms",
        integer(1, 24 * HOUR_MS, MILLISECONDS),
        "Maximum time that an answer waits for earlier ones in the same conversation; then 503 with `Retry-After`.",
    ),
    key(
        "conversations.checkpoint_ms",
        integer(10, HOUR_MS, MILLISECONDS),
        "Interval at which the text of a running answer is stored: the maximum loss when the server is killed.",
    ),
];

/// `[responses]`
pub const RESPONSES: &[Key] = &[
    key(
        "responses.retention_days",
        integer(0, 36_500, "days"),
        "Retention of stored responses; 0: unlimited.",
    ),
    key(
        "responses.max_background",
        integer(0, 100_000, "responses"),
        "Maximum number of concurrent background responses; one more gets 429.",
    ),
    key(
        "responses.max_background_per_user",
        integer(0, 100_000, "responses"),
        "The same for one user, or for all guests of one IPv4 address or IPv6 /64.",
    ),
    key(
        "responses.resume_grace_ms",
        integer(0, HOUR_MS, MILLISECONDS),
        "Time that a stored stream continues after its client disconnected, so that it can be resumed; then it is cancelled.",
    ),
];

/// `[audit]`
pub const AUDIT: &[Key] = &[
    key(
        "audit.retention_days",
        integer(0, 36_500, "days"),
        "Retention of audit records in the store, where `GET /admin/audit` finds them. 0: none are stored, and existing ones are removed.",
    ),
    key(
        "audit.max_records",
        integer(2, 100_000_000, "records"),
        "Maximum number of audit records in the store, of about 300 bytes each: half of them for completed actions, half for refusals and session refreshes. The oldest are removed first.",
    ),
    key(
        "audit.stream",
        Kind::Text,
        "Destination of the live audit log, one JSON object per line: `off`, `stderr`, or the path of a file that lines are appended to. The file is created with mode 0600, and reopened when it was moved or removed.",
    ),
];
