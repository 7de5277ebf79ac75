-- SPDX-License-Identifier: Apache-2.0
-- lock.lua: every change to a lock, for one name or for several at once (all or nothing, one common fence).
--
-- KEYS   for n names: n lock keys, the n fence keys, the n queue keys, all in the same order of names, then the absent
--        key, which never exists, and the audit key
-- ARGV   1 verb, 2 audit length (0: no audit), 3 claim time in ms, 4 how long a last fence is kept in ms, then by verb
--   acquire  5 nonce, 6 owner, 7 hold in ms, 8 'queue <most>' to wait for it, where no line has so many places before
--            it; or the arrival that an earlier answer told; '' to try
--   release  5 value, 6 successor's nonce ('' for none), 7 its owner, 8 its hold in ms, 9 'queue' behind others or ''
--            at once
--   cancel   5 nonce, 6 owner, 7 hold in ms, as they were asked for
--   force    5 actor, 6 reason
-- RESULT
--   the fence, a decimal string    acquire, release: the caller (or its successor) holds the lock now
--   {2, position, ms, arrival}     acquire, release: queued; ask again after that many ms if no grant was pushed
--   {3, i}                         acquire: the line of the i-th name is full
--   {0, ms, owner}                 acquire: busy for about that many ms ('' as owner: nobody holds any of the names)
--   {0, ms, owner, n}              release: the value does not hold all the names; the n that it held were given back
--   1                              release, cancel: done
--   {fence, value, ms}             force: every fence up to this one is dead; what was taken away, and its time left
--                                  (nil: free)
--
-- A lock key holds <fence>:<nonce>:<owner>. A nonce is <process>-<counter>-<secret>; `inbox:<process>` is the channel
-- of its process. A place, the member of a queue, is nonce, owner, hold and first name, a line each; a waiter that
-- wants several names (its counter ends in x and their number) lists them once, in `place:<nonce>`. So a release can
-- hand on in the same step.
--
-- The queue. A waiter stands in the queue of every name it wants, with one arrival time (server µs, rising). It is
-- granted when it is first in all of them and none is held, all at once: nothing is ever held while waiting, and
-- arrival is one total order, so there is no deadlock, no overtaking and no starvation. The price: a free name may stay
-- idle for a waiter that still lacks another. Whatever frees a name or a place calls `settle`, which hands on, in the
-- same step. A push to an inbox is lines: `grant` or `revoked`, nonce, fence, names.
-- A second call with the same nonce finds its own work and repeats the answer.
--
-- Processes that are gone. A grant is pushed with a short claim time, whether its inbox is heard or not: a connection
-- that blinked is back within it. `unanswered:<process>` is when a process was first pushed a grant, or found not to
-- listen, since it was last heard of (it claims or asks). Once that is longer ago than a claim may take, all its places
-- are dropped where they are met: a process that is gone, cut off or asleep holds each line up once and not once a
-- place. Nothing is lost by that: a waiter keeps the arrival it was told, asks again from time to time, and then stands
-- where it stood before.
--
-- A full Redis refuses the first write of a script if it may need memory, and none after a write that needs none. So
-- what frees comes first, in every verb that lets go, and a place is left before its grant is written. What only
-- informs (audit, push) comes last and may fail.
--
-- The names of a queued waiter are known only from its place, so `settle` derives their keys from the audit key's
-- prefix. They share the hash tag, hence the slot, with the keys in KEYS.
local n = (#KEYS - 2) / 3
local verb, audit_length, claim_ms, fence_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local prefix = string.sub(KEYS[#KEYS], 1, -6) -- without 'audit'
local QUEUE_MS = '600000'

local function name_of(i) return string.sub(KEYS[i], #prefix + 6) end -- after 'lock:'

local function names()
    if n == 1 then return name_of(1) end
    local all = {}
    for i = 1, n do all[i] = name_of(i) end
    return table.concat(all, '\n')
end

local function place_of(nonce, owner, hold_ms)
    return nonce .. '\n' .. owner .. '\n' .. hold_ms .. '\n' .. name_of(1)
end

-- A failure of the audit must not fail a change: hence pcall (full memory, a key of the wrong type).
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

local now
local function now_us()
    if not now then
        local time = redis.call('TIME')
        now = time[1] * 1000000 + time[2]
    end
    return now
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
        redis.call('SET', KEYS[n + i], fence, 'PX', fence_ms)
    end
end

-- Fast paths: nobody waits. What follows them is not even built then.
local queues = redis.call('EXISTS', unpack(KEYS, 2 * n + 1, 3 * n))
local values = redis.call('MGET', unpack(KEYS, 1, 2 * n))

if verb == 'acquire' then
    local nonce, owner, hold_ms = ARGV[5], ARGV[6], ARGV[7]
    local fence = fence_held_by(values, nonce)
    if fence then -- asked before: the answer was lost, or a grant was pushed meanwhile; this is its claim
        for i = 1, n do redis.call('PEXPIRE', KEYS[i], hold_ms) end
        redis.call('DEL', prefix .. 'unanswered:' .. string.match(nonce, '^[^-]*'))
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
    local value, successor, queue = ARGV[5], ARGV[6], ARGV[9]
    local held = true
    for i = 1, n do held = held and values[i] == value end
    if held then
        local fence, _, owner = split_value(value)
        if successor ~= '' and (queue == '' or queues == 0) then
            local next = next_fence(now_us(), values, n + 1, 2 * n)
            if not pcall(write_grant, next, successor, ARGV[7], ARGV[8]) then -- full: make room first
                redis.call('DEL', unpack(KEYS, 1, n))
                write_grant(next, successor, ARGV[7], ARGV[8])
            end
            audit('release', names(), owner, fence)
            audit('grant', names(), ARGV[7], next)
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

-- From here on there are waiters, or an unusual case.

local function process_of(nonce) return string.match(nonce, '^[^-]*') end

-- The process asks: it is there.
local function heard_of(nonce) redis.call('DEL', prefix .. 'unanswered:' .. process_of(nonce)) end

local CLAIM_US = claim_ms * 1000
-- About how many commands a call may run, a few ms: the next call goes on. `is_unfinished` then makes the caller ask
-- again at once.
local MAXIMUM_WORK = 3000
local work, is_unfinished = 0, false

-- MGET, for a key of another type is not a lock: it is overwritten, here as on the fast path.
local function is_held(name) return redis.call('MGET', prefix .. 'lock:' .. name)[1] end

local function split_place(place)
    local nonce, owner, hold_ms, name = string.match(place, '^([^\n]*)\n([^\n]*)\n([^\n]*)\n([^\n]*)')
    local waiter = { place = place, nonce = nonce, owner = owner, hold_ms = hold_ms, names = { name } }
    waiter.process = process_of(nonce)
    if string.find(nonce, '^[^-]*%-%d+x') then
        waiter.key = prefix .. 'place:' .. nonce
        local all = redis.call('MGET', waiter.key)[1]
        if all then
            waiter.names = {}
            for one in string.gmatch(all, '[^\n]+') do waiter.names[#waiter.names + 1] = one end
        else
            waiter.is_broken = true -- nobody knows its other names: it will ask again
        end
    end
    return waiter
end

-- pcall: a queue of another type is nobody's.
local function leave(waiter, name)
    work = work + #waiter.names + 1
    if waiter.is_broken then return redis.pcall('ZREM', prefix .. 'queue:' .. name, waiter.place) end
    for _, one in ipairs(waiter.names) do redis.pcall('ZREM', prefix .. 'queue:' .. one, waiter.place) end
    if waiter.key then redis.call('DEL', waiter.key) end
end

local function come_back(waiter, arrival)
    for _, one in ipairs(waiter.names) do
        redis.pcall('ZADD', prefix .. 'queue:' .. one, arrival, waiter.place)
        redis.call('PEXPIRE', prefix .. 'queue:' .. one, QUEUE_MS)
    end
    if waiter.key then redis.call('SET', waiter.key, table.concat(waiter.names, '\n'), 'PX', QUEUE_MS) end
end

-- Whether it is first in all its queues and none of its names is held. It was found first in that of `name`, which is
-- free.
local function can_have_all(waiter, name)
    for _, other in ipairs(waiter.names) do
        if other ~= name then
            if is_held(other) then return false end
            local rank = redis.pcall('ZRANK', prefix .. 'queue:' .. other, waiter.place)
            work = work + 2
            if type(rank) == 'number' and rank ~= 0 then return false end
        end
    end
    return true
end

-- Whether the process was not heard of for longer than a claim may take. `begins`: from now on it owes an answer.
local gone = {}
local function is_gone(process, begins)
    if gone[process] then return true end
    local key = prefix .. 'unanswered:' .. process
    work = work + 1
    local begun = begins and redis.pcall('SET', key, string.format('%.0f', now_us()), 'PX', QUEUE_MS, 'NX')
    if begun and begun.ok then return false end
    local since = tonumber(redis.call('MGET', key)[1])
    if since and now_us() - since > CLAIM_US then gone[process] = true end
    return gone[process]
end

-- How many subscribers the inboxes have; nil if the user may not ask.
local function listeners(...)
    work = work + 1
    local counts = redis.pcall('PUBSUB', 'NUMSUB', ...)
    if not counts.err then return counts end
end

local function is_heard(waiter)
    local counts = listeners(prefix .. 'inbox:' .. waiter.process)
    return not counts or counts[2] > 0
end

-- A waiter that stood first does not listen. Others in that line may not listen either, as after a restart or the loss
-- of a machine: their time runs from now as well, not one after the other.
local function look_for_silent(name)
    local places = redis.call('ZRANGE', prefix .. 'queue:' .. name, 0, 99)
    local inboxes, seen = {}, {}
    for _, place in ipairs(places) do
        local process = process_of(place)
        if not seen[process] then
            seen[process] = true
            inboxes[#inboxes + 1] = prefix .. 'inbox:' .. process
        end
    end
    if #inboxes == 0 then return end
    local counts = listeners(unpack(inboxes)) or {}
    for i = 1, #counts, 2 do
        if counts[i + 1] == 0 then is_gone(string.sub(counts[i], #prefix + 7), true) end
    end
end

local STAYS, LEFT, GRANTED = 1, 2, 3

-- Serves the first waiter in the queue of `name`, which is free. `is_mine`: the caller's own; it is answered, not told.
local function serve(waiter, arrival, name, is_mine)
    if waiter.is_broken or not is_mine and gone[waiter.process] then
        leave(waiter, name)
        return LEFT
    end
    if not can_have_all(waiter, name) then
        if is_mine or not is_gone(waiter.process, not is_heard(waiter)) then return STAYS end
        leave(waiter, name)
        return LEFT
    end
    leave(waiter, name)
    if not is_mine and is_gone(waiter.process, true) then return LEFT end
    local locks, fences = {}, {}
    for i, one in ipairs(waiter.names) do locks[i], fences[i] = prefix .. 'lock:' .. one, prefix .. 'fence:' .. one end
    local fence = next_fence(now_us(), redis.call('MGET', unpack(fences)), 1, #fences)
    local hold_ms = waiter.hold_ms
    if not is_mine then
        local message = { 'grant', waiter.nonce, fence, unpack(waiter.names) }
        local told = redis.pcall('PUBLISH', prefix .. 'inbox:' .. waiter.process, table.concat(message, '\n'))
        if told == 0 then
            look_for_silent(name)
        elseif type(told) == 'table' and is_heard(waiter) then -- this user may not push: it will come for it
            come_back(waiter, arrival)
            return STAYS
        end
        hold_ms = claim_ms
    end
    local value = fence .. ':' .. waiter.nonce .. ':' .. waiter.owner
    for i = 1, #locks do
        redis.call('SET', locks[i], value, 'PX', hold_ms)
        redis.call('SET', fences[i], fence, 'PX', fence_ms)
    end
    audit('grant', table.concat(waiter.names, '\n'), waiter.owner, fence, 'waitedUs',
        string.format('%.0f', math.max(0, now_us() - tonumber(arrival))))
    return GRANTED, fence
end

-- Hands every free name on to the first in its queue, if that can have all it wants. Returns the fence if the waiter at
-- `my_place` was granted. `is_free`: the first name of this call was freed just now.
local function settle(my_place, is_free)
    local todo, listed, mine = {}, {}, nil
    for i = 1, n do
        todo[i] = name_of(i)
        listed[todo[i]] = true
    end
    local next = 1
    while next <= #todo do
        local name = todo[next]
        next = next + 1
        listed[name] = nil
        local is_open = is_free or not is_held(name)
        is_free = false
        while is_open do
            if work > MAXIMUM_WORK then
                is_unfinished = true
                return mine
            end
            work = work + 3
            local head = redis.pcall('ZRANGE', prefix .. 'queue:' .. name, 0, 0, 'WITHSCORES')
            if head.err or not head[1] then break end
            local waiter = split_place(head[1])
            local is_mine = waiter.place == my_place
            local outcome, fence = serve(waiter, head[2], name, is_mine)
            if is_mine and fence then mine = fence end
            if outcome ~= LEFT then break end
            for _, other in ipairs(waiter.names) do -- those behind it may be first now, in its other queues too
                if other ~= name and not listed[other] then
                    todo[#todo + 1] = other
                    listed[other] = true
                end
            end
        end
    end
    return mine
end

-- Takes a place in every queue: where it stands, where it says that it stood, or behind everybody. Returns its arrival.
local function enqueue(nonce, place, told)
    local arrival, is_missing
    for i = 2 * n + 1, 3 * n do
        local stands = redis.call('ZSCORE', KEYS[i], place)
        arrival = arrival or stands
        is_missing = is_missing or not stands
    end
    arrival = tonumber(arrival) or told
    if not arrival then
        arrival = now_us()
        for i = 2 * n + 1, 3 * n do
            local last = redis.call('ZRANGE', KEYS[i], -1, -1, 'WITHSCORES')[2]
            if last and tonumber(last) >= arrival then arrival = tonumber(last) + 1 end
        end
    elseif is_missing then
        heard_of(nonce) -- it only comes back, so a full Redis takes it: see above
    end
    local score = string.format('%.0f', arrival)
    for i = 2 * n + 1, 3 * n do
        if is_missing then redis.call('ZADD', KEYS[i], 'NX', score, place) end
        redis.call('PEXPIRE', KEYS[i], QUEUE_MS)
    end
    if n > 1 then redis.call('SET', prefix .. 'place:' .. nonce, names(), 'PX', QUEUE_MS) end
    heard_of(nonce)
    return arrival, is_missing
end

-- The shortest time any of the names is still held; 1 s if none is (the waiter before us lacks some other name).
local function held_ms()
    if is_unfinished then return 1 end
    local shortest
    for i = 1, n do
        local ms = redis.call('PTTL', KEYS[i])
        if ms >= 0 and (not shortest or ms < shortest) then shortest = ms end
    end
    return shortest or 1000
end

local function wait_for_it(nonce, place, told, is_free, most)
    local arrival, is_new = enqueue(nonce, place, told)
    local fence = settle(place, is_free)
    if fence then return fence end
    local position, longest = 0, 1
    for i = 1, n do
        local rank = redis.call('ZRANK', KEYS[2 * n + i], place) or 0
        if rank > position then position, longest = rank, i end
    end
    -- Judged at the end: dead places in the line were dropped first, as far as one call goes.
    if is_new and most and position >= most and not is_unfinished then
        leave(split_place(place), name_of(1))
        return { 3, longest }
    end
    return { 2, position, held_ms(), arrival }
end

local function holder()
    local values = redis.call('MGET', unpack(KEYS, 1, n))
    for i = 1, n do
        if values[i] then
            local _, _, owner = split_value(values[i])
            return owner or '(written by somebody else)'
        end
    end
    return ''
end

if verb == 'acquire' then
    local nonce, queue = ARGV[5], ARGV[8]
    local place = place_of(nonce, ARGV[6], ARGV[7])
    if queue ~= '' then
        return wait_for_it(nonce, place, tonumber(queue), nil, tonumber(string.match(queue, '^queue (%d+)$')))
    end
    local fence = settle(place) -- it may have a place, from before its inbox fell silent
    if fence then return fence end
    if holder() ~= '' or redis.call('EXISTS', unpack(KEYS, 2 * n + 1, 3 * n)) > 0 then
        return { 0, held_ms(), holder() }
    end
    fence = next_fence(now_us(), values, n + 1, 2 * n)
    write_grant(fence, nonce, ARGV[6], ARGV[7])
    audit('grant', names(), ARGV[6], fence)
    return fence
end

if verb == 'release' then
    local part, is_whole = {}, true
    for i = 1, n do
        if values[i] == ARGV[5] then part[#part + 1] = i else is_whole = false end
    end
    if not is_whole then -- not held, or a part of it was taken away: then the rest goes as well
        local fence, _, owner = split_value(ARGV[5])
        for _, i in ipairs(part) do
            redis.call('DEL', KEYS[i])
            audit('release', name_of(i), owner, fence)
        end
        if part[1] then settle(nil) end
        return { 0, held_ms(), holder(), #part }
    end
    if ARGV[9] ~= '' then return wait_for_it(ARGV[6], place_of(ARGV[6], ARGV[7], ARGV[8]), nil, true) end
    settle(nil, true)
    return 1
end

if verb == 'cancel' then
    local nonce = ARGV[5]
    local place = place_of(nonce, ARGV[6], ARGV[7])
    for i = 1, n do
        local fence, held_by, owner = split_value(values[i] or '')
        if held_by == nonce then
            redis.call('DEL', KEYS[i])
            audit('cancel', name_of(i), owner, fence)
        end
        local left = redis.pcall('ZREM', KEYS[2 * n + i], place)
        -- A key of another type holds no place of ours. Any other refusal is told, and the withdrawal is repeated.
        if type(left) == 'table' and left.err and not string.find(left.err, 'WRONGTYPE', 1, true) then return left end
    end
    if n > 1 then redis.call('DEL', prefix .. 'place:' .. nonce) end
    settle(nil)
    return 1
end

if verb == 'force' then
    local value = values[1]
    if not value then return nil end
    local ms = redis.call('PTTL', KEYS[1])
    local held, nonce, owner = split_value(value)
    local fence = next_fence(now_us(), { values[2], held }, 1, 2)
    redis.call('DEL', KEYS[1])
    redis.call('SET', KEYS[2], fence, 'PX', fence_ms)
    audit('force', name_of(1), owner or '(written by somebody else)', held or '0', 'reason', ARGV[5] .. ': ' .. ARGV[6])
    if nonce then
        local message = { 'revoked', nonce, held, name_of(1) }
        redis.pcall('PUBLISH', prefix .. 'inbox:' .. process_of(nonce), table.concat(message, '\n'))
    end
    settle(nil, true)
    return { fence, value, ms }
end

return redis.error_reply('ERR lock.lua: unknown verb ' .. tostring(verb))
