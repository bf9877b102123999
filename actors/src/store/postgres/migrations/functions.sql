-- Functions name the schema of their tables, so they are made again when a schema is renamed.

-- Adds to the storage totals: the rows of `came` less those of `gone`.
CREATE OR REPLACE FUNCTION {s}.count_conversations() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM {s}.add_totals(array_agg(user_id), array_agg(used_bytes), 1, 0, 1) FROM came;
    ELSIF TG_OP = 'DELETE' THEN
        PERFORM {s}.add_totals(array_agg(user_id), array_agg(used_bytes), 1, 0, -1) FROM gone;
    ELSE
        PERFORM {s}.add_totals(array_agg(user_id), array_agg(used_bytes), 1, 0, -1) FROM gone;
        PERFORM {s}.add_totals(array_agg(user_id), array_agg(used_bytes), 1, 0, 1) FROM came;
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION {s}.count_responses() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM {s}.add_totals(array_agg(user_id), array_agg(used_bytes), 0, 1, 1) FROM came;
    ELSIF TG_OP = 'DELETE' THEN
        PERFORM {s}.add_totals(array_agg(user_id), array_agg(used_bytes), 0, 1, -1) FROM gone;
    ELSE
        PERFORM {s}.add_totals(array_agg(user_id), array_agg(used_bytes), 0, 1, -1) FROM gone;
        PERFORM {s}.add_totals(array_agg(user_id), array_agg(used_bytes), 0, 1, 1) FROM came;
    END IF;
    RETURN NULL;
END $$;

-- A request counts by itself once its own response is deleted.
CREATE OR REPLACE FUNCTION {s}.count_requests() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM {s}.add_totals(array_agg(user_id), array_agg(bytes), 0, 0, -1) FROM gone WHERE kept;
    ELSE
        PERFORM {s}.add_totals(array_agg(user_id), array_agg(bytes), 0, 0, -1) FROM gone WHERE kept;
        PERFORM {s}.add_totals(array_agg(user_id), array_agg(bytes), 0, 0, 1) FROM came WHERE kept;
    END IF;
    RETURN NULL;
END $$;

-- In the order of users, so that two transactions that change the same totals do not wait for each other.
CREATE OR REPLACE FUNCTION {s}.add_totals(users uuid[], used bigint[], conversations integer, responses integer, sign integer)
RETURNS void LANGUAGE sql AS $$
    INSERT INTO {s}.totals AS t (user_id, bytes, conversations, responses)
    SELECT u, sign * sum(b), sign * conversations * count(*), sign * responses * count(*)
    FROM unnest(users, used) AS more (u, b) GROUP BY u ORDER BY u
    ON CONFLICT (user_id) DO UPDATE SET
        bytes = t.bytes + EXCLUDED.bytes,
        conversations = t.conversations + EXCLUDED.conversations,
        responses = t.responses + EXCLUDED.responses;
$$;

-- The body of an item goes with the item.
CREATE OR REPLACE FUNCTION {s}.drop_item_body() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' OR NEW.body_id IS DISTINCT FROM OLD.body_id THEN
        DELETE FROM {s}.bodies WHERE id = OLD.body_id;
    END IF;
    RETURN NULL;
END $$;

-- A response's result goes with the response; its request stays while others begin with it.
CREATE OR REPLACE FUNCTION {s}.drop_response() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    at uuid := OLD.request;
    next uuid;
BEGIN
    DELETE FROM {s}.bodies WHERE id = OLD.result;
    IF EXISTS (SELECT FROM {s}.requests WHERE before = at) THEN
        UPDATE {s}.requests SET kept = true WHERE id = at;
        RETURN NULL;
    END IF;
    LOOP
        DELETE FROM {s}.requests WHERE id = at RETURNING before INTO next;
        EXIT WHEN next IS NULL;
        EXIT WHEN NOT (SELECT kept FROM {s}.requests WHERE id = next);
        EXIT WHEN EXISTS (SELECT FROM {s}.requests WHERE before = next);
        at := next;
    END LOOP;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION {s}.drop_result() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.result IS DISTINCT FROM OLD.result THEN
        DELETE FROM {s}.bodies WHERE id = OLD.result;
    END IF;
    RETURN NULL;
END $$;

-- Notes a change of a credential. The lock is held until the transaction has ended, so that the numbers are in the order
-- of the commits, and a reader that has seen one has missed none before it.
CREATE OR REPLACE FUNCTION {s}.note_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('{name}.change', 0));
    IF TG_TABLE_NAME = 'users' THEN
        INSERT INTO {s}.change (kind, key) VALUES ('user', decode(replace(coalesce(NEW.id, OLD.id)::text, '-', ''), 'hex'));
    ELSIF TG_TABLE_NAME = 'keys' THEN
        INSERT INTO {s}.change (kind, key, owner, old)
        VALUES ('key', coalesce(NEW.hash, OLD.hash), coalesce(NEW.user_id, OLD.user_id), OLD.record);
    ELSE
        INSERT INTO {s}.change (kind, key, owner)
        VALUES (
            'session',
            decode(replace(coalesce(NEW.id, OLD.id)::text, '-', ''), 'hex'),
            coalesce(NEW.user_id, OLD.user_id)
        );
    END IF;
    PERFORM pg_notify('jan_changes', '{name}');
    RETURN NULL;
END $$;
