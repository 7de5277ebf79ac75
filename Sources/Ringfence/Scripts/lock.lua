-- SPDX-License-Identifier: Apache-2.0
-- lock.lua: every change to a lock, for one name or for several at once (all or nothing, one common fence).
--
-- KEYS   for n names: n lock keys, the n fence keys, the n queue keys, all in the same order of names, then the audit key
-- ARGV   1 verb, 2 audit length (0: no audit), 3 claim time in ms, then by verb
--   acquire  4 nonce, 5 owner, 6 hold in ms, 7 'queue' to wait for it, '' to try only
--   release  4 value, 5 successor's nonce ('' for none), 6 its owner, 7 its hold in ms, 8 'queue' behind others or '' at once
--   cancel   4 nonce, 5 owner, 6 hold in ms, as they were asked for
--   force    4 actor, 5 reason
-- RESULT
--   the fence, a decimal string    acquire, release: the caller (or its successor) holds the lock now
--   {2, position, ms}              acquire, release: queued; ask again after that many ms if no grant was pushed
--   {0, ms, owner}                 acquire: busy for about that many ms; release: the value does not hold all the names, and
--                                  nothing was done ('' as owner: nobody holds the first of them)
--   1                              release, cancel: done
--   {fence, value, ms}             force: every fence up to this one is dead; what was taken away, and its time left (nil: free)
--
-- A lock key holds <fence>:<nonce>:<owner>. A nonce is <process>-<counter>-<secret>; `inbox:<process>` is the channel of
-- its process. A place, the member of a queue, is nonce, owner, hold and names, a line each: it says all that a grant
-- needs, so that whoever lets go can hand on in the same step.
--
-- The queue. A waiter stands in the queue of every name it wants, with one arrival time (server µs, rising). It is granted
-- when it is first in all of them and none is held, all at once: nothing is ever held while waiting, and arrival is one
-- total order, so there is no deadlock, no overtaking and no starvation. The price: a free name may stay idle for a waiter
-- that still lacks another. Whatever frees a name or a place calls `settle`, which hands on, in the same step.
-- A push to an inbox is lines: `grant` or `revoked`, nonce, fence, names.
-- A grant is pushed with a short claim time: a waiter whose inbox nobody hears (PUBLISH returned 0) is dropped, one that
-- hears but sleeps loses it after that time. A second call with the same nonce finds its own work and repeats the answer.
--
-- The names of a queued waiter are known only from its place, so `settle` derives their keys from the audit key's prefix.
-- They share the hash tag, hence the slot, with the keys in KEYS.
local n = (#KEYS - 1) / 3
local verb, audit_length, claim_ms = ARGV[1], ARGV[2], ARGV[3]
local prefix = string.sub(KEYS[#KEYS], 1, -6) -- without 'audit'
local FENCE_MS, QUEUE_MS = '86400000', '600000'

local function name_of(i) return string.sub(KEYS[i], #prefix + 6) end -- after 'lock:'

local function names()
    if n == 1 then return name_of(1) end
    local all = {}
    for i = 1, n do all[i] = name_of(i) end
    return table.concat(all, '\n')
end

local function place_of(nonce, owner, hold_ms)
    return nonce .. '\n' .. owner .. '\n' .. hold_ms .. '\n' .. names()
end

-- The audit tells of a change, it never fails one: hence pcall (full memory, a key of the wrong type).
local function audit(action, about, owner, fence, field, value)
    if audit_length == '0' then return end
    if field then
        redis.pcall('XADD', KEYS[#KEYS], 'MAXLEN', '~', audit_length, '*', 'action', action, 'names', about,
            'owner', owner, 'fence', fence, field, value)
    else
        redis.pcall('XADD', KEYS[#KEYS], 'MAXLEN', '~', audit_length, '*', 'action', action, 'names', about,
            'owner', owner, 'fence', fence)
    end
end

local function now_us()
    local time = redis.call('TIME')
    return time[1] * 1000000 + time[2]
end

-- The server's µs, or one more than any fence given before: it grows even if the clock steps back.
local function next_fence(now, last_fences, from, to)
    local fence = now
    for i = from, to do
        local last = tonumber(last_fences[i] or 0)
        if last >= fence then fence = last + 1 end
    end
    return string.format('%.0f', fence)
end

local function split_value(value) return string.match(value, '^(%d+):([^:]+):(.*)$') end

-- The fence under which `nonce` holds every one of the n names, or nil.
local function fence_held_by(values, nonce)
    local fence
    for i = 1, n do
        local f, holder = split_value(values[i] or '')
        if holder ~= nonce then return nil end
        fence = f
    end
    return fence
end

local function write_grant(fence, nonce, owner, hold_ms)
    local value = fence .. ':' .. nonce .. ':' .. owner
    for i = 1, n do
        redis.call('SET', KEYS[i], value, 'PX', hold_ms)
        redis.call('SET', KEYS[n + i], fence, 'PX', FENCE_MS)
    end
end

-- Fast paths: nobody waits. What follows them is not even built then.
local queues = redis.call('EXISTS', unpack(KEYS, 2 * n + 1, 3 * n))
local values = redis.call('MGET', unpack(KEYS, 1, 2 * n))

if verb == 'acquire' then
    local nonce, owner, hold_ms = ARGV[4], ARGV[5], ARGV[6]
    local fence = fence_held_by(values, nonce)
    if fence then -- asked before: the answer was lost, or a grant was pushed meanwhile; this is its claim
        for i = 1, n do redis.call('PEXPIRE', KEYS[i], hold_ms) end
        return fence
    end
    local held = false
    for i = 1, n do held = held or values[i] end
    if not held and queues == 0 then
        fence = next_fence(now_us(), values, n + 1, 2 * n)
        write_grant(fence, nonce, owner, hold_ms)
        audit('grant', names(), owner, fence)
        return fence
    end
elseif verb == 'release' then
    local value, successor, queue = ARGV[4], ARGV[5], ARGV[8]
    local held = true
    for i = 1, n do held = held and values[i] == value end
    if held then
        local fence, _, owner = split_value(value)
        if successor ~= '' and (queue == '' or queues == 0) then
            local next = next_fence(now_us(), values, n + 1, 2 * n)
            write_grant(next, successor, ARGV[6], ARGV[7])
            audit('release', names(), owner, fence)
            audit('grant', names(), ARGV[6], next)
            return next
        end
        redis.call('DEL', unpack(KEYS, 1, n))
        audit('release', names(), owner, fence)
        if queues == 0 then return 1 end
    else
        local fence = successor ~= '' and fence_held_by(values, successor)
        if fence then return fence end -- passed on before; the answer was lost
    end
end

-- From here on somebody waits, or something is out of the ordinary.

local function split_place(place)
    local lines = {}
    for line in string.gmatch(place, '[^\n]+') do lines[#lines + 1] = line end
    local waiter = { place = place, nonce = lines[1], owner = lines[2], hold_ms = lines[3], names = {} }
    for i = 4, #lines do waiter.names[i - 3] = lines[i] end
    waiter.inbox = prefix .. 'inbox:' .. string.match(waiter.nonce, '^[^-]*')
    return waiter
end

local function leave(waiter)
    for _, name in ipairs(waiter.names) do redis.call('ZREM', prefix .. 'queue:' .. name, waiter.place) end
end

local function is_first_and_free(waiter)
    for _, name in ipairs(waiter.names) do
        if redis.call('EXISTS', prefix .. 'lock:' .. name) == 1 then return false end
        if (redis.call('ZRANK', prefix .. 'queue:' .. name, waiter.place) or 0) ~= 0 then return false end
    end
    return true
end

-- Grants to a waiter that is first everywhere; nil if nobody hears its inbox. `mine` is answered instead of told.
local function grant(waiter, arrival, mine)
    local last = {}
    for i, name in ipairs(waiter.names) do last[i] = redis.call('GET', prefix .. 'fence:' .. name) end
    local now = now_us()
    local fence = next_fence(now, last, 1, #waiter.names)
    local hold_ms = waiter.hold_ms
    if not mine then
        local message = { 'grant', waiter.nonce, fence, unpack(waiter.names) }
        if redis.call('PUBLISH', waiter.inbox, table.concat(message, '\n')) == 0 then return nil end
        hold_ms = claim_ms
    end
    local value = fence .. ':' .. waiter.nonce .. ':' .. waiter.owner
    for _, name in ipairs(waiter.names) do
        redis.call('SET', prefix .. 'lock:' .. name, value, 'PX', hold_ms, 'NX')
        redis.call('SET', prefix .. 'fence:' .. name, fence, 'PX', FENCE_MS)
    end
    audit('grant', table.concat(waiter.names, '\n'), waiter.owner, fence, 'waitedUs',
        string.format('%.0f', math.max(0, now - arrival)))
    return fence
end

-- Hands every free name on to who is first in its queue and can have all it wants. Waiters whose process is gone are
-- dropped, at most 1,000 a call (the next call goes on). Returns the fence if the waiter at `my_place` was granted.
local function settle(my_place)
    local todo, mine, dropped = {}, nil, 0
    for i = 1, n do todo[i] = name_of(i) end
    local next = 1
    while next <= #todo and dropped < 1000 do
        local name = todo[next]
        next = next + 1
        while dropped < 1000 and redis.call('EXISTS', prefix .. 'lock:' .. name) == 0 do
            local head = redis.call('ZRANGE', prefix .. 'queue:' .. name, 0, 0, 'WITHSCORES')
            if not head[1] then break end
            local waiter = split_place(head[1])
            local is_mine = waiter.place == my_place
            local fence
            if is_first_and_free(waiter) then
                fence = grant(waiter, tonumber(head[2]), is_mine)
                if is_mine then mine = fence end
            elseif is_mine or redis.call('PUBSUB', 'NUMSUB', waiter.inbox)[2] > 0 then
                break -- alive, and lacks another name
            end
            leave(waiter)
            if not fence then -- dead: those behind it may be first now, in its other queues too
                dropped = dropped + 1
                for _, other in ipairs(waiter.names) do
                    if other ~= name then todo[#todo + 1] = other end
                end
            end
        end
    end
    return mine
end

-- Takes a place in every queue: the one it had, or one behind everybody.
local function enqueue(place)
    local arrival
    for i = 2 * n + 1, 3 * n do arrival = arrival or redis.call('ZSCORE', KEYS[i], place) end
    if not arrival then
        local at = now_us()
        for i = 2 * n + 1, 3 * n do
            local last = redis.call('ZRANGE', KEYS[i], -1, -1, 'WITHSCORES')[2]
            if last and tonumber(last) >= at then at = tonumber(last) + 1 end
        end
        arrival = string.format('%.0f', at)
    end
    for i = 2 * n + 1, 3 * n do
        redis.call('ZADD', KEYS[i], 'NX', arrival, place)
        redis.call('PEXPIRE', KEYS[i], QUEUE_MS)
    end
end

-- The shortest time any of the names is still held; 1 s if none is (who stands before us lacks some other name).
local function held_ms()
    local shortest
    for i = 1, n do
        local ms = redis.call('PTTL', KEYS[i])
        if ms >= 0 and (not shortest or ms < shortest) then shortest = ms end
    end
    return shortest or 1000
end

local function queued(place)
    local position = 0
    for i = 2 * n + 1, 3 * n do position = math.max(position, redis.call('ZRANK', KEYS[i], place) or 0) end
    return { 2, position, held_ms() }
end

local function holder()
    for i = 1, n do
        local value = redis.call('GET', KEYS[i])
        if value then
            local _, _, owner = split_value(value)
            return owner or '(written by somebody else)'
        end
    end
    return ''
end

if verb == 'acquire' then
    if ARGV[7] ~= '' then
        local place = place_of(ARGV[4], ARGV[5], ARGV[6])
        enqueue(place)
        return settle(place) or queued(place)
    end
    settle(nil)
    if redis.call('EXISTS', unpack(KEYS, 1, n)) + redis.call('EXISTS', unpack(KEYS, 2 * n + 1, 3 * n)) > 0 then
        return { 0, held_ms(), holder() }
    end
    local fence = next_fence(now_us(), values, n + 1, 2 * n)
    write_grant(fence, ARGV[4], ARGV[5], ARGV[6])
    audit('grant', names(), ARGV[5], fence)
    return fence
end

if verb == 'release' then
    for i = 1, n do -- all or nothing: the value may be of other names, or a part of them was taken away
        if values[i] ~= ARGV[4] then return { 0, held_ms(), holder() } end
    end
    if ARGV[8] ~= '' then
        local place = place_of(ARGV[5], ARGV[6], ARGV[7])
        enqueue(place)
        return settle(place) or queued(place)
    end
    settle(nil)
    return 1
end

if verb == 'cancel' then
    local nonce = ARGV[4]
    local place = place_of(nonce, ARGV[5], ARGV[6])
    for i = 1, n do
        local fence, held_by, owner = split_value(values[i] or '')
        if held_by == nonce then
            redis.call('DEL', KEYS[i])
            audit('cancel', name_of(i), owner, fence)
        end
        redis.call('ZREM', KEYS[2 * n + i], place)
    end
    settle(nil)
    return 1
end

if verb == 'force' then
    local value = values[1]
    if not value then return nil end
    local ms = redis.call('PTTL', KEYS[1])
    local held, nonce, owner = split_value(value)
    local fence = next_fence(now_us(), { values[2], held }, 1, 2)
    redis.call('SET', KEYS[2], fence, 'PX', FENCE_MS)
    redis.call('DEL', KEYS[1])
    if nonce then
        local message = { 'revoked', nonce, held, name_of(1) }
        redis.call('PUBLISH', prefix .. 'inbox:' .. string.match(nonce, '^[^-]*'), table.concat(message, '\n'))
    end
    audit('force', name_of(1), owner or '(written by somebody else)', held or '0', 'reason', ARGV[4] .. ': ' .. ARGV[5])
    settle(nil)
    return { fence, value, ms }
end

return redis.error_reply('ERR lock.lua: unknown verb ' .. tostring(verb))
