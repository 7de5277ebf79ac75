-- SPDX-License-Identifier: Apache-2.0
--
-- Writes two new balances, marks the transfer as applied and enters it in the journal, all or nothing, unless the
-- writer is too late. Run behind the text of RingfenceGuard.lua, which defines ringfence_guard.
--
-- KEYS[1..5]  as in read.lua
-- KEYS[6]     the journal: the id of each transfer, once for each time it was applied
-- KEYS[7]     the list of writes that were refused, as '<worker> <transfer>'
-- ARGV[1..3]  fence, holder, transfer
-- ARGV[4..5]  the new balances
-- ARGV[6]     the worker
-- RESULT      'stale', 'applied' (it was before: a repeated call whose first answer was lost), or 'written'
if not (ringfence_guard(KEYS[1], ARGV[1], ARGV[2]) and ringfence_guard(KEYS[2], ARGV[1], ARGV[2])) then
    redis.call('RPUSH', KEYS[7], ARGV[6] .. ' ' .. ARGV[3])
    return 'stale'
end
if redis.call('SADD', KEYS[5], ARGV[3]) == 0 then return 'applied' end
redis.call('SET', KEYS[3], ARGV[4])
redis.call('SET', KEYS[4], ARGV[5])
redis.call('RPUSH', KEYS[6], ARGV[3])
return 'written'
