-- SPDX-License-Identifier: Apache-2.0
-- cache.lua: all calls to one node of a replicated cache. A node knows nothing of the others; it keeps what is newest,
-- says what it lost, and refuses callers that know an old layout.
--
-- KEYS   1 node, a hash; then by verb
-- ARGV   1 verb, 2 the layout that the caller knows: its epoch, '-', and its change, 3 the server's run id as the
--        caller's connection knows it, then by verb
--   hello   KEYS 2… hints kept for each target
--   put     KEYS 2… ; 2 the node's word as the caller was told it, 3 and 4 from and until when it holds; or
--           2 layout, ' ' and run, 3 and 4 '0'; 5 not after (ms of this server's clock; 0: whenever), and for each key:
--           its entry as if nothing ended, ttl, life
--   get     KEYS 2…
--   heads   KEYS 2…
--   scan    4 cursor, 5 pattern, 6 about how many
--   begin   4 nonce, 5 freshness in ms
--   wipe    4 cursor, 5 pattern, 6 about how many, 7 nonce
--   end     4 nonce, 5 freshness in ms, 6 '1' if all its data was gone through, '0': it was whole, and got what a new
--           layout brings
--   raise   4 layout, 5 epoch that its change began with
--   hint    KEYS 2 hints; 4 how many may be kept, 5… keys
--   hinted  KEYS 2 hints; 4 how many, 5 freshness in ms
--   unhint  KEYS 2 hints; 4… key, at, key, at, …
--   behind  4 '1' or '0'
--   drop    KEYS 2… ; 4… their versions
-- RESULT { status, now, whole epoch, 1 if behind, result }; of a put that met nothing newer { now, whole epoch,
--        1 if behind, word or '' }; of one that came with the word that holds { now, result }, or now alone if it met
--        nothing newer
--   status  'ok'; 'outdated' (result: the layout, if it is here): nothing was done; 'late': it is past `not after`
--   hello   { layout or '', ms left of being whole, hints, hints, … }
--   put     for each key '' or the version that is newer
--   get     for each key { } or { version, 'v' or 'x', ttl, life, payload }
--   heads   for each key '' or its version
--   scan    { cursor, key, key, … }, wipe { cursor, or '' if it is not to be wiped by this nonce, or has been }
--   begin   { 1 if it must be wiped, 1 if there is nothing here }, end { 1 if it is whole now }
--   hinted  { key, at, key, at, … }, hint { how many were not taken }
--
-- An entry is one string: version (32 hex digits: stamp and writer), 'v' for a value or 'x' for a removal, when the
-- value is over and when all of it may be forgotten (13 digits each, ms of this server's clock; 0: never), and the
-- value's bytes. What is over is not gone: a node that missed it still has an older value, so it stands like a removal
-- until all others know of it. Times are told as ms left, never as a moment: every server has its own clock.
--
-- Whole. A node counts in quorums only while it is whole: its data was completed from the others, in this very process
-- (`run`: one that restarted may have lost its last second), and not longer ago than others remember removals. A server
-- that was flushed has lost the record of its completion, and one whose clock went back to before the completion does
-- not trust it. To complete: `begin`, wipe if told to, copy from the others, `end`. A loss of data between the two
-- takes the nonce with it. A node that was not wiped must end before the others forget what was removed just after it
-- was completed last: they remember for a third longer than it is whole.
--
-- Layouts. `raise` tells the node of one, and from then on refuses callers that know an older one, or another of the
-- same epoch: of two layouts that follow the same one only one can then be told to nearly all nodes.
--
-- Versions are compared in parts of 13 digits (52 bits), as numbers: Lua compares strings by the server's locale.
--
-- Word. The six fields that decide what a put is answered, in one: `stamp run wholeEpoch swept wholeUntil behind`. It
-- is there while `stamp` and `swept` are, and made anew wherever one of the six changes. It is told while the node is
-- whole, to callers that know its layout; a put that comes with it need not look at the six one by one.
--
-- Put comes first: callers wait for it, and whatever it does not need is made after it. Lua makes functions and tables
-- anew in each call, and making those of this file took as long as the calls of Redis. A number that is given to Redis
-- is printed and parsed again, so what can be text is text.
local call, sub, number, format = redis.call, string.sub, tonumber, string.format
local verb, stamp, run = ARGV[1], ARGV[2], ARGV[3]
local HEAD, NEVER = 59, '0000000000000'

local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local word, is_known, is_late, node, is_whole, whole, behind, known

if verb == 'put' then
    local not_after = number(ARGV[5])
    word, is_late = call('HGET', KEYS[1], 'word'), not_after > 0 and now > not_after
    is_known = word == ARGV[2] and now >= number(ARGV[3]) and now < number(ARGV[4]) and not is_late
    if not is_known then stamp, run = string.match(ARGV[2], '^(%S+) (%S+)') end
end

if not is_known then
    node = call('HMGET', KEYS[1], 'stamp', 'run', 'wholeEpoch', 'swept', 'wholeUntil', 'behind')
    is_whole = node[2] == run and node[4] and now >= number(node[4]) and now < number(node[5])
    whole = is_whole and number(node[3]) or -1
    behind = node[6] and 1 or 0
    known = node[1] or '0-0'
    if stamp ~= known and verb ~= 'hello' then
        if number(string.match(stamp, '^%d+')) <= number(string.match(known, '^%d+')) then
            return { 'outdated', now, whole, behind, call('HGET', KEYS[1], 'layout') or '' }
        end
    end
end

if verb == 'put' then
    if is_late then return { 'late', now, whole, behind, {} } end
    local newer
    for i = 2, #KEYS do
        local key, at = KEYS[i], 3 * i
        local value, old, is_newer, is_same = ARGV[at], call('GETRANGE', key, '0', '31'), false, false
        if #old == 32 then
            local a, b = number(sub(old, 1, 13), 16), number(sub(value, 1, 13), 16)
            if a == b then a, b = number(sub(old, 14, 26), 16), number(sub(value, 14, 26), 16) end
            if a == b then a, b = number(sub(old, 27, 32), 16), number(sub(value, 27, 32), 16) end
            is_newer, is_same = a > b, a == b
        end
        if is_newer then
            newer = newer or {}
            newer[i - 1] = old
        elseif not is_same then
            local ttl, life = ARGV[at + 1], ARGV[at + 2]
            if ttl ~= '-1' or life ~= '-1' then
                value = sub(value, 1, 33) .. (ttl == '-1' and NEVER or format('%013.0f', now + ttl))
                    .. (life == '-1' and NEVER or format('%013.0f', now + life)) .. sub(value, HEAD + 1)
            end
            if life == '-1' then
                call('SET', key, value)
            elseif life ~= '0' then
                call('SET', key, value, 'PX', life)
            end
        end
    end
    if not newer then
        if is_known then return now end
        return { now, whole, behind, is_whole and stamp == known and word or '' }
    end
    local result = {}
    for i = 1, #KEYS - 1 do result[i] = newer[i] or '' end
    if is_known then return { now, result } end
    return { 'ok', now, whole, behind, result }
end

local function int(n) return format('%.0f', n) end
local function epoch_of(one) return number(string.match(one, '^%d+')) end

local result = {}
if verb == 'hello' then
    result[1], result[2] = call('HGET', KEYS[1], 'layout') or '', is_whole and node[5] - now or 0
    for i = 2, #KEYS do result[i + 1] = call('ZCARD', KEYS[i]) end
elseif verb == 'get' then
    for i = 2, #KEYS do
        local value = call('GET', KEYS[i])
        if not value or #value < HEAD then
            result[i - 1] = {}
        else
            local kind, ends, forgets = sub(value, 33, 33), number(sub(value, 34, 46)), number(sub(value, 47, 59))
            local is_over = kind == 'x' or (ends > 0 and now >= ends)
            local left = (not is_over and ends > 0) and ends - now or -1
            result[i - 1] = { sub(value, 1, 32), is_over and 'x' or 'v', left,
                forgets > 0 and math.max(0, forgets - now) or -1, is_over and '' or sub(value, HEAD + 1) }
        end
    end
elseif verb == 'heads' then
    for i = 2, #KEYS do
        local head = call('GETRANGE', KEYS[i], 0, 31)
        result[i - 1] = #head == 32 and head or ''
    end
elseif verb == 'scan' then
    local page = call('SCAN', ARGV[4], 'MATCH', ARGV[5], 'COUNT', ARGV[6])
    result[1] = page[1]
    for i, key in ipairs(page[2]) do result[i + 1] = key end
elseif verb == 'wipe' then
    local building = call('HMGET', KEYS[1], 'building', 'buildingRun', 'wiping')
    if building[1] == ARGV[7] and building[2] == run and building[3] then
        local page = call('SCAN', ARGV[4], 'MATCH', ARGV[5], 'COUNT', ARGV[6])
        result[1] = page[1]
        for _, key in ipairs(page[2]) do call('UNLINK', key) end
        if page[1] == '0' then call('HDEL', KEYS[1], 'wiping') end
    else
        result[1] = ''
    end
elseif verb == 'begin' then
    call('HSET', KEYS[1], 'building', ARGV[4], 'buildingRun', run, 'buildingEpoch', int(epoch_of(stamp)),
        'began', int(now))
    local swept = number(node[4] or '')
    result = { (not swept or now < swept or now - swept >= number(ARGV[5])) and 1 or 0, swept and 0 or 1 }
    if result[1] == 1 then
        call('HSET', KEYS[1], 'wiping', '1')
        call('HDEL', KEYS[1], 'swept')
    else
        call('HDEL', KEYS[1], 'wiping')
    end
elseif verb == 'end' then
    local building = call('HMGET', KEYS[1], 'building', 'buildingRun', 'buildingEpoch', 'began')
    result[1] = 0
    if building[1] == ARGV[4] and building[2] == run then
        local began, ends = number(building[4]), number(building[4]) + number(ARGV[5])
        call('HDEL', KEYS[1], 'building', 'buildingRun', 'buildingEpoch', 'began', 'wiping')
        if ARGV[6] == '0' then
            if is_whole then
                call('HSET', KEYS[1], 'wholeEpoch', building[3])
                whole, result[1] = number(building[3]), 1
            end
        elseif now >= began and now < ends and not (node[4] and (now - node[4]) * 3 >= ARGV[5] * 4) then
            call('HSET', KEYS[1], 'run', run, 'wholeEpoch', building[3], 'swept', building[4], 'wholeUntil', int(ends))
            whole, result[1] = number(building[3]), 1
        end
    end
elseif verb == 'raise' then
    -- It may have been completed for another change, which came to nothing.
    local began = number(ARGV[5])
    local is_other = string.match(stamp, '-.*') ~= string.match(known, '-.*')
    if node[3] and is_other and number(node[3]) >= began then
        call('HSET', KEYS[1], 'wholeEpoch', int(began - 1))
        whole = is_whole and began - 1 or -1
    end
    call('HSET', KEYS[1], 'stamp', stamp, 'layout', ARGV[4])
    result[1] = 0
elseif verb == 'hint' then
    local room, refused = number(ARGV[4]) - call('ZCARD', KEYS[2]), 0
    for i = 5, #ARGV do
        if call('ZADD', KEYS[2], 'XX', 'CH', int(now), ARGV[i]) == 0 and not call('ZSCORE', KEYS[2], ARGV[i]) then
            if room > 0 then
                call('ZADD', KEYS[2], int(now), ARGV[i])
                room = room - 1
            else
                refused = refused + 1
            end
        end
    end
    result[1] = refused
elseif verb == 'hinted' then
    call('ZREMRANGEBYSCORE', KEYS[2], '-inf', int(now - number(ARGV[5])))
    result = call('ZRANGE', KEYS[2], 0, number(ARGV[4]) - 1, 'WITHSCORES')
elseif verb == 'unhint' then
    for i = 4, #ARGV, 2 do
        if call('ZSCORE', KEYS[2], ARGV[i]) == ARGV[i + 1] then call('ZREM', KEYS[2], ARGV[i]) end
    end
    result[1] = 0
elseif verb == 'behind' then
    if ARGV[4] == '1' then call('HSET', KEYS[1], 'behind', '1') else call('HDEL', KEYS[1], 'behind') end
    behind, result[1] = number(ARGV[4]), 0
elseif verb == 'drop' then
    for i = 2, #KEYS do
        if call('GETRANGE', KEYS[i], 0, 31) == ARGV[i + 2] then call('UNLINK', KEYS[i]) end
    end
    result[1] = 0
else
    return redis.error_reply('ERR cache.lua: unknown verb ' .. tostring(verb))
end
if verb == 'begin' or (verb == 'end' and result[1] == 1) or verb == 'raise' or verb == 'behind' then
    local all = call('HMGET', KEYS[1], 'stamp', 'run', 'wholeEpoch', 'swept', 'wholeUntil')
    if all[1] and all[4] then
        call('HSET', KEYS[1], 'word', table.concat(all, ' ') .. ' ' .. behind)
    else
        call('HDEL', KEYS[1], 'word')
    end
end
return { 'ok', now, whole, behind, result }
