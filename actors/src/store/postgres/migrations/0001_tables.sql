-- Ids are the 16 bytes of the program's ids. Keys that a caller chooses are bytea, which holds any text and sorts by
-- bytes whatever the database's collation is. Records are the JSON of an export.

-- The servers that write here. `commits` counts the durable syncs of one: a database that is behind what a server
-- remembers has lost acknowledged changes. `written` counts the commits of an opening: a sync makes durable what is there,
-- and this tells whether all of it is. `epoch` changes with each opening.
CREATE TABLE {s}.server (
    id uuid PRIMARY KEY,
    epoch uuid NOT NULL,
    commits bigint NOT NULL DEFAULT 0,
    written bigint NOT NULL DEFAULT 0,
    seen_at timestamptz NOT NULL DEFAULT now(),
    running boolean NOT NULL DEFAULT true,
    temporary boolean NOT NULL DEFAULT false
);

-- Locked by decisions: shared at first, and alone by one that met conflicts again and again.
CREATE TABLE {s}.decision ();

CREATE TABLE {s}.users (
    id uuid PRIMARY KEY,
    email bytea,
    external bytea,
    record text NOT NULL,
    -- Checked at the end of a transaction, since one may hand an address over from one user to another.
    CONSTRAINT users_email UNIQUE (email) DEFERRABLE INITIALLY DEFERRED,
    CONSTRAINT users_external UNIQUE (external) DEFERRABLE INITIALLY DEFERRED
);

CREATE TABLE {s}.keys (
    hash bytea PRIMARY KEY,
    user_id uuid NOT NULL,
    id uuid NOT NULL,
    record text NOT NULL,
    CONSTRAINT keys_id UNIQUE (user_id, id) DEFERRABLE INITIALLY DEFERRED
);

CREATE TABLE {s}.sessions (id uuid PRIMARY KEY, user_id uuid NOT NULL, record text NOT NULL);
CREATE INDEX sessions_user ON {s}.sessions (user_id, id);

-- Deleted users whose data is still being removed.
CREATE TABLE {s}.deleting (user_id uuid PRIMARY KEY);

CREATE TABLE {s}.usage (
    owner uuid NOT NULL,
    day bigint NOT NULL,
    api_key uuid NOT NULL,
    model bytea NOT NULL,
    requests bigint NOT NULL,
    prompt_tokens bigint NOT NULL,
    cached_tokens bigint NOT NULL,
    completion_tokens bigint NOT NULL,
    PRIMARY KEY (owner, day, api_key, model)
);

-- The last batch of each server's buffer of usage, so that none is added twice.
CREATE TABLE {s}.usage_batch (
    buffer uuid PRIMARY KEY,
    number bigint NOT NULL,
    added_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE {s}.audit (class smallint NOT NULL, id uuid NOT NULL, record text NOT NULL, PRIMARY KEY (class, id));
CREATE INDEX audit_id ON {s}.audit (id);

CREATE TABLE {s}.conversations (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL,
    updated_us bigint NOT NULL,
    share bytea,
    used_bytes bigint NOT NULL,
    record text NOT NULL
);
CREATE INDEX conversations_user ON {s}.conversations (user_id, updated_us DESC, id);
CREATE INDEX conversations_share ON {s}.conversations (share) WHERE share IS NOT NULL;

-- Large JSON that records refer to. `epoch`: it is staged by that opening, and nothing refers to it yet.
CREATE TABLE {s}.bodies (id uuid PRIMARY KEY, epoch uuid, bytes bigint NOT NULL, body text NOT NULL);
CREATE INDEX bodies_staged ON {s}.bodies (epoch) WHERE epoch IS NOT NULL;

CREATE TABLE {s}.items (
    conversation uuid NOT NULL,
    number bigint NOT NULL,
    item_id bytea NOT NULL,
    parent bigint,
    created_at bigint NOT NULL,
    deleted boolean NOT NULL,
    pending boolean NOT NULL,
    bytes bigint NOT NULL,
    body text,
    body_id uuid,
    PRIMARY KEY (conversation, number)
);
CREATE INDEX items_id ON {s}.items (conversation, item_id);

-- Deleted conversations whose items are still being removed.
CREATE TABLE {s}.doomed (conversation uuid PRIMARY KEY);

-- The request of a response. It begins with the items of `before`, which thereby stays when its own response is deleted
-- (`kept`).
CREATE TABLE {s}.requests (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL,
    before uuid REFERENCES {s}.requests (id),
    depth integer NOT NULL,
    bytes bigint NOT NULL,
    kept boolean NOT NULL DEFAULT false,
    epoch uuid,
    body text NOT NULL
);
CREATE INDEX requests_before ON {s}.requests (before) WHERE before IS NOT NULL;
CREATE INDEX requests_user ON {s}.requests (user_id);
CREATE INDEX requests_kept ON {s}.requests (id) WHERE kept;
CREATE INDEX requests_staged ON {s}.requests (epoch) WHERE epoch IS NOT NULL;

CREATE TABLE {s}.responses (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL,
    request uuid NOT NULL REFERENCES {s}.requests (id) DEFERRABLE INITIALLY DEFERRED,
    result uuid,
    used_bytes bigint NOT NULL,
    -- The server that runs it, and that alone.
    server uuid
);
CREATE INDEX responses_user ON {s}.responses (user_id, id);
CREATE INDEX responses_running ON {s}.responses (id) WHERE result IS NULL;
CREATE UNIQUE INDEX responses_request ON {s}.responses (request);

-- The storage that each user takes, kept by triggers in the transaction of each change.
CREATE TABLE {s}.totals (
    user_id uuid PRIMARY KEY,
    bytes bigint NOT NULL,
    conversations bigint NOT NULL,
    responses bigint NOT NULL
);

-- Signing keys, encrypted with a key that the servers have and the database does not.
CREATE TABLE {s}.secrets (name text PRIMARY KEY, sealed bytea NOT NULL);

-- Changes of credentials in the order of their commits, for the other servers. `old`: the record of a deleted key.
CREATE TABLE {s}.change (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,
    key bytea NOT NULL,
    owner uuid,
    old text,
    made_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX change_made_at ON {s}.change (made_at);
