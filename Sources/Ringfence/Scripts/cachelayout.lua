-- SPDX-License-Identifier: Apache-2.0
-- cachelayout.lua: the layout of a cache, kept where its group is. Of two that would be the next, the first one is.
--
-- KEYS   1 layout
-- ARGV   1 epoch, 2 layout: a JSON object that begins with its epoch; '' to be told only
-- RESULT the layout that is there now, or ''
--
-- Nodes remember the layout too, so one that this Redis lost, or an older copy of it, is put back by whoever knows it.
local stored = redis.call('GET', KEYS[1]) or ''
local known = tonumber(string.match(stored, '^{"epoch":(%d+)') or 0)
if ARGV[2] ~= '' and tonumber(ARGV[1]) > known then
    redis.call('SET', KEYS[1], ARGV[2])
    return ARGV[2]
end
return stored
