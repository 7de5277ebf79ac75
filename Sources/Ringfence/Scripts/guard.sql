-- SPDX-License-Identifier: Apache-2.0
--
-- The guard of a PostgreSQL write: refuses a fence older than the newest this database has seen for the resource.
--
-- Install it once, with a migration or at start: it is one statement, may be run again at any time, also by two
-- processes at once. Then call it FIRST in the transaction that writes:
--
--   BEGIN;
--   SELECT ringfence_guard('account/42', 7001234567890123, 'a1b2c3-17');   -- lock name, lease.fence, lease.id
--   UPDATE account SET balance = balance - 100 WHERE id = 42;
--   COMMIT;
--
-- It passes when the fence is newer than every fence seen for the resource, or equal and of the same holder.
-- Otherwise it raises SQLSTATE RF001, which ends the transaction, so nothing after it is written. The answer is
-- final: the lease behind that fence is over, do not retry under it. A malformed argument raises SQLSTATE 22023.
--
-- The record is part of your transaction: it is there if your write is there, and a rollback takes both back. Its row
-- lock makes two holders of one resource queue up until the first commits, so nobody writes between the check and the
-- write.
--
-- It also makes them wait for one that was stopped (paused, cut off) between the guard and its COMMIT: until the server ends
-- that transaction, nobody writes under the resource. Let the server end it, and keep the waiting short:
--
--   ALTER ROLE payments SET idle_in_transaction_session_timeout = '5s';  -- ends a session that is idle in a transaction
--   ALTER ROLE payments SET lock_timeout = '10s';                        -- ends the wait (55P03): retry, or give up
--   ALTER ROLE payments SET transaction_timeout = '30s';                 -- PostgreSQL 17: ends any that takes longer
--
-- READ COMMITTED (the default): a transaction that queued up sees what the first committed and is judged by that.
-- REPEATABLE READ and SERIALIZABLE: one that queued up, or began before the other's commit, gets 40001 instead, as with
-- any row two transactions change; run it again from its start, and the guard then passes or raises RF001.
--
-- Several resources under one fence (a transfer): guard all of them in one order everywhere, or two transfers deadlock:
--   SELECT ringfence_guard(r, 7001234567890123, 'a1b2c3-17')
--     FROM unnest(ARRAY['account/42', 'account/7']) AS r ORDER BY r;
--
-- Without this table, a column per row does the same for that row; no row changed means refused:
--   UPDATE account SET balance = balance - 100, fence = $1, holder = $2
--    WHERE id = 42 AND (fence < $1 OR (fence = $1 AND holder = $2));
-- (`fence <= $1` alone is enough where two holders can never be given one fence: see the documentation on failover.)
--
-- Why one DO statement: every driver can send it, and the advisory lock lets two installers run at once. Why $1 to
-- $3: in the function's body a parameter named like a column would be ambiguous. The caller needs SELECT, INSERT and
-- UPDATE on the table, and the table's schema on the search_path. Keep the rows: a guard that forgets lets the oldest
-- writer in.
DO $install$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('ringfence_guard'));

    CREATE TABLE IF NOT EXISTS ringfence_guard (
        resource text PRIMARY KEY,
        fence bigint NOT NULL,
        holder text NOT NULL,
        at timestamptz NOT NULL DEFAULT now()
    );

    CREATE OR REPLACE FUNCTION ringfence_guard(resource text, fence bigint, holder text) RETURNS void
    LANGUAGE plpgsql AS $guard$
    DECLARE
        seen record;
    BEGIN
        IF $1 IS NULL OR octet_length($1) NOT BETWEEN 1 AND 512 THEN
            RAISE EXCEPTION 'ringfence_guard: resource must have 1 to 512 bytes' USING ERRCODE = '22023';
        END IF;
        IF $2 IS NULL OR $2 < 1 THEN
            RAISE EXCEPTION 'ringfence_guard: fence must be from 1 to 9223372036854775807' USING ERRCODE = '22023';
        END IF;
        IF $3 IS NULL OR octet_length($3) NOT BETWEEN 1 AND 256 THEN
            RAISE EXCEPTION 'ringfence_guard: holder must have 1 to 256 bytes' USING ERRCODE = '22023';
        END IF;

        INSERT INTO ringfence_guard AS newest (resource, fence, holder) VALUES ($1, $2, $3)
        ON CONFLICT ON CONSTRAINT ringfence_guard_pkey DO UPDATE
            SET fence = excluded.fence, holder = excluded.holder, at = now()
            WHERE newest.fence < excluded.fence
               OR (newest.fence = excluded.fence AND newest.holder = excluded.holder);
        IF NOT FOUND THEN
            SELECT newest.fence, newest.holder INTO seen FROM ringfence_guard AS newest WHERE newest.resource = $1;
            RAISE EXCEPTION 'ringfence_guard: fence % of % is stale for %', $2, $3, $1
                USING ERRCODE = 'RF001',
                      DETAIL = format('The newest fence seen is %s of %s.', seen.fence, seen.holder),
                      HINT = 'The lease behind this fence is over; a retry under it cannot pass.';
        END IF;
    END
    $guard$;
END
$install$;
