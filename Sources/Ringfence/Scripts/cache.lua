-- SPDX-License-Identifier: Apache-2.0
-- cache.lua: all that is asked of one node of a replicated cache. A node knows nothing of the others; it keeps what is
-- newest, says what it lost, and refuses to hear who knows an old layout.
--
-- KEYS   1 node, a hash; then by verb
-- ARGV   1 verb, 2 the layout that the caller knows: its epoch, '-', and its change, 3 the server's run id as the caller's connection knows it, then by verb
--   hello   KEYS 2… hints kept for each target
--   put     KEYS 2… ; 4 not after (ms of this server's clock; 0: whenever), and for each key: version, 'v' or 'x', ttl, life, payload
--   get     KEYS 2…
--   heads   KEYS 2…
--   scan    4 cursor, 5 pattern, 6 about how many
--   begin   4 nonce, 5 freshness in ms
--   wipe    4 cursor, 5 pattern, 6 about how many, 7 nonce
--   end     4 nonce, 5 freshness in ms, 6 '1' if all its data was gone through, '0': it was whole, and got what a new layout brings
--   raise   4 layout, 5 epoch that its change began with
--   hint    KEYS 2 hints; 4 how many may be kept, 5… keys
--   hinted  KEYS 2 hints; 4 how many, 5 freshness in ms
--   unhint  KEYS 2 hints; 4… key, at, key, at, …
--   behind  4 '1' or '0'
--   drop    KEYS 2… ; 4… their versions
-- RESULT { status, now, whole epoch, 1 if behind, result }
--   status  'ok'; 'outdated' (result: the layout, if it is here): nothing was done; 'late': it is past `not after`
--   hello   { layout or '', ms left of being whole, hints, hints, … }
--   put     for each key '' or the version that is newer
--   get     for each key { } or { version, 'v' or 'x', ttl, life, payload }
--   heads   for each key '' or its version
--   scan    { cursor, key, key, … }, wipe { cursor, or '' if it is not to be wiped by this nonce, or has been }
--   begin   { 1 if it must be wiped, 1 if there is nothing here }, end { 1 if it is whole now }
--   hinted  { key, at, key, at, … }, hint { how many were not taken }
--
-- An entry is one string: version (32 hex digits: stamp and writer), 'v' for a value or 'x' for a removal, when the value is
-- over and when all of it may be forgotten (13 digits each, ms of this server's clock; 0: never), and the value's bytes. What is
-- over is not gone: whoever missed it has an older value yet, so it stands like a removal until all others know of it. Times are
-- told as ms left, never as a moment: every server has its own clock.
--
-- Whole. A node counts in quorums only while it is whole: while its data was completed from the others, in this very process
-- (`run`: one that restarted may have lost its last second), not longer ago than others remember removals. A server that was
-- flushed has no such word, and one whose clock went back before the completion does not trust it. To complete: `begin`, wipe if
-- told to, copy from the others, `end`. Whatever is lost between the two takes the nonce with it. A node that was not wiped must
-- end before the others forget what was removed just after it was completed last: they remember for a third longer than it is whole.
--
-- Layouts. `raise` tells the node of one, and whoever knows an older one is not heard from then on; nor whoever knows another of
-- the same epoch, for of two that follow the same one only one can be told to nearly all nodes then.
--
-- Versions are compared in parts of 13 digits (52 bits), as numbers: Lua compares strings by the server's locale.
local verb, stamp, run = ARGV[1], ARGV[2], ARGV[3]
local HEAD, NEVER = 59, '0000000000000'

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local node = redis.call('HMGET', KEYS[1], 'stamp', 'run', 'wholeEpoch', 'swept', 'wholeUntil', 'behind')
local is_whole = node[2] == run and node[4] and now >= tonumber(node[4]) and now < tonumber(node[5])
local whole = is_whole and tonumber(node[3]) or -1
local behind = node[6] and 1 or 0

local function int(n) return string.format('%.0f', n) end
local function answer(status, result) return { status, now, whole, behind, result } end
local function epoch_of(one) return tonumber(string.match(one, '^%d+')) end

if verb == 'hello' then
    local result = { redis.call('HGET', KEYS[1], 'layout') or '', is_whole and node[5] - now or 0 }
    for i = 2, #KEYS do result[i + 1] = redis.call('ZCARD', KEYS[i]) end
    return answer('ok', result)
end
local known = node[1] or '0-0'
if stamp ~= known and epoch_of(stamp) <= epoch_of(known) then
    return answer('outdated', redis.call('HGET', KEYS[1], 'layout') or '')
end

local result = {}
if verb == 'put' then
    local until_ = tonumber(ARGV[4])
    if until_ > 0 and now > until_ then return answer('late', result) end
    for i = 2, #KEYS do
        local at = 5 * i - 5
        local version, ttl, life = ARGV[at], tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
        local old = redis.call('GETRANGE', KEYS[i], 0, 31)
        local is_there, is_newer = old == version, false
        if #old == 32 and not is_there then
            for digit = 1, 32, 13 do
                local a, b = tonumber(string.sub(old, digit, digit + 12), 16), tonumber(string.sub(version, digit, digit + 12), 16)
                if a ~= b then
                    is_newer = a > b
                    break
                end
            end
        end
        result[i - 1] = is_newer and old or ''
        if not is_newer and not is_there and life ~= 0 then
            local value = version .. ARGV[at + 1] .. (ttl < 0 and NEVER or string.format('%013.0f', now + ttl))
                .. (life < 0 and NEVER or string.format('%013.0f', now + life)) .. ARGV[at + 4]
            if life < 0 then
                redis.call('SET', KEYS[i], value)
            else
                redis.call('SET', KEYS[i], value, 'PX', int(life))
            end
        end
    end
elseif verb == 'get' then
    for i = 2, #KEYS do
        local value = redis.call('GET', KEYS[i])
        if not value or #value < HEAD then
            result[i - 1] = {}
        else
            local kind, ends, forgets = string.sub(value, 33, 33), tonumber(string.sub(value, 34, 46)), tonumber(string.sub(value, 47, 59))
            local is_over = kind == 'x' or (ends > 0 and now >= ends)
            result[i - 1] = { string.sub(value, 1, 32), is_over and 'x' or 'v', (not is_over and ends > 0) and ends - now or -1,
                forgets > 0 and math.max(0, forgets - now) or -1, is_over and '' or string.sub(value, HEAD + 1) }
        end
    end
elseif verb == 'heads' then
    for i = 2, #KEYS do
        local head = redis.call('GETRANGE', KEYS[i], 0, 31)
        result[i - 1] = #head == 32 and head or ''
    end
elseif verb == 'scan' then
    local page = redis.call('SCAN', ARGV[4], 'MATCH', ARGV[5], 'COUNT', ARGV[6])
    result[1] = page[1]
    for i, key in ipairs(page[2]) do result[i + 1] = key end
elseif verb == 'wipe' then
    local building = redis.call('HMGET', KEYS[1], 'building', 'buildingRun', 'wiping')
    if building[1] == ARGV[7] and building[2] == run and building[3] then
        local page = redis.call('SCAN', ARGV[4], 'MATCH', ARGV[5], 'COUNT', ARGV[6])
        result[1] = page[1]
        for _, key in ipairs(page[2]) do redis.call('UNLINK', key) end
        if page[1] == '0' then redis.call('HDEL', KEYS[1], 'wiping') end
    else
        result[1] = ''
    end
elseif verb == 'begin' then
    redis.call('HSET', KEYS[1], 'building', ARGV[4], 'buildingRun', run, 'buildingEpoch', int(epoch_of(stamp)), 'began', int(now))
    local swept = tonumber(node[4] or '')
    result = { (not swept or now < swept or now - swept >= tonumber(ARGV[5])) and 1 or 0, swept and 0 or 1 }
    if result[1] == 1 then
        redis.call('HSET', KEYS[1], 'wiping', '1')
        redis.call('HDEL', KEYS[1], 'swept')
    else
        redis.call('HDEL', KEYS[1], 'wiping')
    end
elseif verb == 'end' then
    local building = redis.call('HMGET', KEYS[1], 'building', 'buildingRun', 'buildingEpoch', 'began')
    result[1] = 0
    if building[1] == ARGV[4] and building[2] == run then
        local began, ends = tonumber(building[4]), tonumber(building[4]) + tonumber(ARGV[5])
        redis.call('HDEL', KEYS[1], 'building', 'buildingRun', 'buildingEpoch', 'began', 'wiping')
        if ARGV[6] == '0' then
            if is_whole then
                redis.call('HSET', KEYS[1], 'wholeEpoch', building[3])
                whole, result[1] = tonumber(building[3]), 1
            end
        elseif now >= began and now < ends and not (node[4] and (now - node[4]) * 3 >= ARGV[5] * 4) then
            redis.call('HSET', KEYS[1], 'run', run, 'wholeEpoch', building[3], 'swept', building[4], 'wholeUntil', int(ends))
            whole, result[1] = tonumber(building[3]), 1
        end
    end
elseif verb == 'raise' then
    -- It may have been completed for another change, which came to nothing.
    local began = tonumber(ARGV[5])
    local is_other = string.match(stamp, '-.*') ~= string.match(known, '-.*')
    if node[3] and is_other and tonumber(node[3]) >= began then
        redis.call('HSET', KEYS[1], 'wholeEpoch', int(began - 1))
        whole = is_whole and began - 1 or -1
    end
    redis.call('HSET', KEYS[1], 'stamp', stamp, 'layout', ARGV[4])
    result[1] = 0
elseif verb == 'hint' then
    local room, refused = tonumber(ARGV[4]) - redis.call('ZCARD', KEYS[2]), 0
    for i = 5, #ARGV do
        if redis.call('ZADD', KEYS[2], 'XX', 'CH', int(now), ARGV[i]) == 0 and not redis.call('ZSCORE', KEYS[2], ARGV[i]) then
            if room > 0 then
                redis.call('ZADD', KEYS[2], int(now), ARGV[i])
                room = room - 1
            else
                refused = refused + 1
            end
        end
    end
    result[1] = refused
elseif verb == 'hinted' then
    redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', int(now - tonumber(ARGV[5])))
    result = redis.call('ZRANGE', KEYS[2], 0, tonumber(ARGV[4]) - 1, 'WITHSCORES')
elseif verb == 'unhint' then
    for i = 4, #ARGV, 2 do
        if redis.call('ZSCORE', KEYS[2], ARGV[i]) == ARGV[i + 1] then redis.call('ZREM', KEYS[2], ARGV[i]) end
    end
    result[1] = 0
elseif verb == 'behind' then
    if ARGV[4] == '1' then redis.call('HSET', KEYS[1], 'behind', '1') else redis.call('HDEL', KEYS[1], 'behind') end
    behind, result[1] = tonumber(ARGV[4]), 0
elseif verb == 'drop' then
    for i = 2, #KEYS do
        if redis.call('GETRANGE', KEYS[i], 0, 31) == ARGV[i + 2] then redis.call('UNLINK', KEYS[i]) end
    end
    result[1] = 0
else
    return redis.error_reply('ERR cache.lua: unknown verb ' .. tostring(verb))
end
return answer('ok', result)
