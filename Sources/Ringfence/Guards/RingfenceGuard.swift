// SPDX-License-Identifier: Apache-2.0
//
// The other half of fencing. A lock decides who should write; only the resource can decide who does, because a holder
// that was paused past its deadline does not know that it is late. So the fence travels with the write, and the
// resource remembers the newest it has seen. Ringfence cannot run inside your database, so it hands you the text that
// does: a Lua function for writes to Redis and an SQL function for writes to PostgreSQL. The texts are the files
// `Scripts/guard.lua` and `Scripts/guard.sql`, byte for byte, so that what you review, run under `redis-cli` or
// `psql`, and ship is one thing.

/// The text to install where you write, so that a holder whose lease is over cannot write any more.
///
/// A guard lets a write pass when its ``Lease/fence`` is newer than every fence seen for the resource, or equal and
/// of the same holder (``Lease/id``), and records it as the newest. It refuses everything else. What a guard has not
/// recorded it cannot refuse: it protects a resource from the first guarded write of the *new* holder on. See
/// <doc:Fencing>.
public enum RingfenceGuard {
    /// A Lua function `ringfence_guard(key, fence, holder)` to put in front of your own Redis script.
    ///
    /// `key` is the guard's own Redis key, in the slot of the data it guards. `fence` is ``Lease/fence`` as a decimal
    /// *string* (a Lua number is a double and too small for it), `holder` is ``Lease/id`` (1 to 256 bytes). The
    /// function returns `true` when the write may go on, and `false` when it must not; a malformed argument, or a key
    /// that holds something else, ends the script with an error that says so. Call it before your first write: Redis
    /// does not roll a script back. The key does not expire.
    ///
    /// ```swift
    /// let debit = RingfenceGuard.lua + """
    ///     if not ringfence_guard(KEYS[1], ARGV[1], ARGV[2]) then
    ///         return redis.error_reply('STALEFENCE a newer holder wrote')
    ///     end
    ///     return redis.call('DECRBY', KEYS[2], ARGV[3])
    ///     """
    /// // EVAL debit 2 guard:{account:42} balance:{account:42} <lease.fence> <lease.id> 100
    /// ```
    public static let lua = String(decoding: PackageResources.guard_lua, as: UTF8.self)

    /// One SQL statement that installs the table and the function `ringfence_guard(resource, fence, holder)` in
    /// PostgreSQL.
    ///
    /// Run it once, from a migration or at start; running it again, also from two processes at once, changes nothing.
    /// Then call the function first in the transaction that writes, with the lock's name, ``Lease/fence`` and
    /// ``Lease/id``. A stale fence raises SQLSTATE ``staleFenceState``, which ends the transaction before it has
    /// written; a malformed argument raises `22023`. It works at every isolation level. Above READ COMMITTED a
    /// transaction that met a concurrent one gets `40001`: run it again from its start, as with any row. A holder that
    /// is stopped between the call and its commit makes the next one wait: <doc:Fencing> has the timeouts to set.
    ///
    /// ```sql
    /// BEGIN;
    /// SELECT ringfence_guard('account/42', 7001234567890123, 'a1b2c3-17');
    /// UPDATE account SET balance = balance - 100 WHERE id = 42;
    /// COMMIT;
    /// ```
    public static let postgreSQL = String(decoding: PackageResources.guard_sql, as: UTF8.self)

    /// The SQLSTATE of a refused write, `RF001`: the lease is over, and a retry under the same fence cannot pass.
    public static let staleFenceState = "RF001"
}
