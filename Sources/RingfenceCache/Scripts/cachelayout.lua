-- SPDX-License-Identifier: Apache-2.0
-- cachelayout.lua: the layout of a cache, kept where its group is. Of two that would be the next, the first one is. And
-- the members that were said to be gone for good: for a minute, in which the process that repairs the cache hears of
-- them.
--
-- KEYS   1 layout, 2 gone: a sorted set by when it was said, 3 the absent key of the namespace
-- ARGV   1 epoch, 2 layout: a JSON object that begins with its epoch; '' to be told only, 3 a member that is gone, or
--        ''
-- RESULT { the layout that is there now, or '', those that are gone … }
--
-- A call that only asks writes nothing: it is answered also where this Redis takes no writes.
-- Nodes remember the layout too, so where this Redis lost it, or has an older copy, any process that knows it puts it
-- back.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local stored = redis.call('GET', KEYS[1]) or ''
local known = tonumber(string.match(stored, '^{"epoch":(%d+)') or 0)
if ARGV[2] ~= '' and tonumber(ARGV[1]) > known then
    redis.call('SET', KEYS[1], ARGV[2])
    stored = ARGV[2]
end
local since = string.format('%.0f', now - 60000)
if ARGV[3] ~= '' then
    redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', since)
    redis.call('ZADD', KEYS[2], string.format('%.0f', now), ARGV[3])
    redis.call('PEXPIRE', KEYS[2], 60000)
end
return { stored, unpack(redis.call('ZRANGEBYSCORE', KEYS[2], since, '+inf', 'LIMIT', 0, 100)) }
