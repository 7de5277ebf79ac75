-- SPDX-License-Identifier: Apache-2.0
--
-- Reads two balances to compute new ones from: the first half of a read-modify-write under a lock.
-- Run behind the text of RingfenceGuard.lua, which defines ringfence_guard.
--
-- The read passes the guard too, not for its own sake: it records the fence. Otherwise a late holder could still write
-- between our read and our write, unrefused because nothing newer was seen, and our write would bury its result.
--
-- KEYS[1..2]  the guards of the account that pays and of the one that is paid
-- KEYS[3..4]  their balances
-- KEYS[5]     the set of transfers that were applied
-- ARGV[1..2]  fence and holder
-- ARGV[3]     the transfer
-- RESULT      {'stale'}, {'applied'}, or {'balances', from, to}
if not (ringfence_guard(KEYS[1], ARGV[1], ARGV[2]) and ringfence_guard(KEYS[2], ARGV[1], ARGV[2])) then
    return { 'stale' }
end
if redis.call('SISMEMBER', KEYS[5], ARGV[3]) == 1 then return { 'applied' } end
return { 'balances', redis.call('GET', KEYS[3]), redis.call('GET', KEYS[4]) }
