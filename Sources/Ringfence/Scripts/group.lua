-- SPDX-License-Identifier: Apache-2.0
-- group.lua: everything that happens to a group. Every call, whatever its verb, is also a look at the clock: it takes out
-- who is dead, and answers with the group as it is now. And the event log, for every change is one.
--
-- KEYS   1 leases:<group>, 2 members:<group>, 3 state:<group>, 4 policy:<group>, 5 groups, 6 events, 7 log
-- ARGV   1 verb, 2 group, 3 a random text for a new generation of the log, 4 how many events are kept,
--        5 the version of the group the caller knows (0: none), 6 its mark (''), 7 the longest lease it knows of in ms (0),
--        8 its seed and 9 its unit, if it knows them (''), then by verb
--   watch  10 'leases' to be told them, else ''
--   beat   10 member, 11 session, 12 lease in ms, 13 the mark of its join
--   join   10 member, 11 session, 12 lease in ms, 13 record, 14 from whom it may take the id: 'first' anybody, 'again' nobody,
--          'over:<session>' that session, 'stay:<mark of its join>' nobody, and it does not come in either: a change of a
--          member that is there (without a mark, one that is not there has expired and was never lost);
--          15 seed, 16 unit, for a group without policy
--   leave  10 member, 11 session ('' for whoever is there), 12 reason, 13 actor
-- RESULT { status, gen, seq, version, mark, ms to the next death, pace in ms, ms held, ms of recovery,
--          members, leases, seed, unit }
--   status    watch: 'watching'; leave: 'left' or 'gone' (it was not there);
--             join and beat: 'member', 'replaced' (another session has the id), 'expired' (it was taken out, or left),
--             'unknown' (Redis lost it: it shall join again under the same session)
--   gen, seq  of the event log: whoever saw less has missed a message
--   mark      <gen>:<seq> of the event that made this version. The caller that knows it already is told no members.
--   ms to the next death   -1 if there are no members
--   members   id, record, id, record, … and the policy behind them, only for a caller that knows another mark; else absent
--   leases    id, ms left, id, ms left, …
--
-- Group time. Leases end in the group's own time, ms that follow the server's clock with two corrections kept in `offset`.
--  * It never goes back: if the server's clock does, or another server with a slower clock takes over, the difference is
--    added and time goes on.
--  * It does not run while nobody can reach the group. All members and watchers call once a pace, a fifth of the shortest
--    lease and at most 1 s; if no call came for two and a half paces, then Redis was away, or all the network, or its clock
--    was set forward: no member is to blame. Time stands still over such a gap, and nobody is taken out for 3 s after,
--    or the shortest lease if that is more, and never longer than the longest (`holdUntil`): so long everybody has to come
--    back. (Not for the longest lease: one member with a lease of an hour would keep the dead of all others.) A death is never taken for a gap while others live or
--    watch, for they go on calling. Where every call comes after a gap (one watcher with a bad line, one that looks in now
--    and then), the dead would never be found: so a hold comes only a hold's length after the last, and from the third gap in a row
--    (`gaps`) on time goes on by one pace with each call. No clock is set forward that often.
-- So a lease never ends early by this, but for one thing that no script can see: a clock set forward by less than two and
-- a half paces. A live member has more than that left; one that is cut off may be taken out half a lease early.
--
-- Another server. One that was promoted, or restarted, may have lost the last beats it or its predecessor had answered, in
-- less time than a gap takes: a member that cannot reach it yet would be taken out before its own clock tells it to stop.
-- So before anybody is taken out, and every 10 s, the server is compared with the group's (`run`); if it is another, every
-- lease is lengthened once by four paces. Lost can be what came in two and a half of them, and the beat that a member then
-- goes without is the one after its last that was kept, a pace before. (Not a hold: that would end before longer leases do.)
--
-- One change set, one version. Whoever died by now is taken out together, at most 64 a call: their events have one version and
-- say how many they are (`of`). Each death is found by exactly one call, for the call that finds it takes it out.
--
-- Versions never go back. A caller that knows a higher version than is stored, or this version with another mark, knows
-- what Redis has lost (it restarted without its data, or an older copy was promoted): the group goes on with the version
-- after it and with the seed and unit that the caller knows, says so (`state.rolledBack`), and nobody is taken out for the
-- longest lease, the time for the others to come back. Until then (`ms of recovery`) callers that knew more members may go
-- on with those. A member that is missing is told 'unknown' if the mark of its join is among what was lost, and 'expired'
-- if not.
--
-- Sessions. A member id belongs to the session that joined last: a process that comes up takes the id from the one that
-- died. But a join whose answer was lost is repeated, and by then somebody may have joined after it, who must not lose the id
-- to it. So a repeated call says whom it meant ('over:'); and, for callers that just repeat, sessions that were replaced are
-- remembered (the last four, as long as the member is there) and do not win it back. A member that joins 'again', because it
-- was lost or has expired, takes the id from nobody. And who renews for a member elsewhere, knowing nothing of it but its
-- session, says 'stay': whether it was lost or has expired, the member is told, and decides.
--
-- The log. A seq is given once within a generation. A generation ends when the log may have stepped back: when the
-- server that writes it is another process, or was promoted (`run`). What the old one wrote up to here is kept (`forks`: a
-- cursor of it is good up to there), and the numbers go on. With INFO forbidden by an ACL nothing of this is noticed.
local verb, group, fresh, retain = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local known_version, known_mark, known_longest = tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7])
local id, session = ARGV[10], ARGV[11]
local SWEEP = 64
local HOLD = 3000
local SERVER_PACE = 10000
local NO_LEASES_PACE = 1000

local function int(n) return string.format('%.0f', n) end

local time = redis.call('TIME')
local at = time[1] * 1000 + math.floor(time[2] / 1000)
local log = redis.call('HMGET', KEYS[7], 'gen', 'seq', 'run')
local state = redis.call('HMGET', KEYS[3], 'version', 'mark', 'now', 'offset', 'holdUntil', 'recoverUntil',
    'shortest', 'longest', 'gaps', 'run', 'runAt')
local first = redis.call('ZRANGE', KEYS[1], 0, 1, 'WITHSCORES')
local record = verb ~= 'watch' and redis.call('HGET', KEYS[2], id)

local gen, seq = log[1] or '', tonumber(log[2] or 0)
local version, mark = tonumber(state[1] or 0), state[2] or ''
local last, offset = tonumber(state[3] or 0), tonumber(state[4] or 0)
local hold_until, recover_until = tonumber(state[5] or 0), tonumber(state[6] or 0)
local shortest, longest, gaps = tonumber(state[7] or 0), tonumber(state[8] or 0), tonumber(state[9] or 0)
local group_run, run_at = state[10] or '', tonumber(state[11] or 0)

local function pace_of() return shortest > 0 and math.min(1000, math.floor(shortest / 5)) or NO_LEASES_PACE end
local now, pace = at + offset, pace_of()
local is_gap = now - last > 2.5 * pace and first[1] and last > 0
local is_behind = known_version > version or (known_version == version and known_mark ~= mark)
local is_due = first[1] and tonumber(first[2]) <= now and now >= hold_until
local is_server_due = first[1] and now - run_at >= SERVER_PACE
local prefix = '{"session":"' .. (session or '') .. '",'
local is_mine = record and string.sub(record, 1, #prefix) == prefix

-- The caller's new lease; `first` stays the one that ends next.
local function renew(lease_ms)
    local ends = now + lease_ms
    redis.call('ZADD', KEYS[1], int(ends), id)
    if not first[1] or first[1] == id then
        if first[3] and tonumber(first[4]) < ends then first = { first[3], first[4] } else first = { id, ends } end
    elseif ends < tonumber(first[2]) then
        first = { id, ends }
    end
end

local function view(status)
    -- A group that never had a member leaves nothing behind.
    if version > 0 then redis.call('HSET', KEYS[3], 'now', int(now), 'offset', int(offset)) end
    if gaps > 0 and not is_gap then redis.call('HDEL', KEYS[3], 'gaps') end
    local next_ms = -1
    if first[1] then next_ms = math.max(0, math.max(tonumber(first[2]), hold_until) - now) end
    return { status, gen, seq, version, mark, next_ms, pace_of(), math.max(0, hold_until - now),
        math.max(0, recover_until - now) }
end

-- Nothing happened but time: nearly every call. What follows is not even built then.
if known_mark == mark and now >= last and not (is_gap or is_behind or is_due or is_server_due) then
    if verb == 'beat' and is_mine then
        renew(tonumber(ARGV[12]))
        return view('member')
    elseif verb == 'watch' and id == '' then
        return view('watching')
    end
end

-- MARK: the log

-- Its process and its history; '' if it may not be asked. (Found by a plain search: a pattern is tried at each of two
-- thousand characters.)
local server_name
local function server()
    if server_name then return server_name end
    local name = ''
    for _, part in ipairs({ { 'server', 'run_id:' }, { 'replication', 'master_replid:' } }) do
        local info = redis.pcall('INFO', part[1])
        if type(info) ~= 'string' then
            name = ''
            break
        end
        local _, last = string.find(info, part[2], 1, true)
        name = name .. '.' .. (last and string.match(info, '^%w+', last + 1) or '')
    end
    server_name = name
    return name
end

-- Writes events, behind gen, seq, at, type and group; their other fields are JSON already. They are written before what
-- they tell of is done: if the log cannot take them, nothing has happened.
local FIELDS = { 'member', 'version', 'of', 'previous', 'reason', 'actor', 'detail' }
local is_log_checked = false
local function append(events)
    if not is_log_checked then
        is_log_checked = true
        local run = server()
        if gen == '' then
            -- The stream may have outlived the hash; its numbers are not given again.
            local newest = redis.call('XREVRANGE', KEYS[6], '+', '-', 'COUNT', 1)[1]
            seq = newest and tonumber(string.match(newest[1], '^%d+')) or 0
            gen = fresh
            redis.call('HSET', KEYS[7], 'gen', gen, 'run', run, 'seq', int(seq), 'forks', '')
        elseif log[3] ~= run then
            local forks = { gen .. '@' .. int(seq) }
            for fork in string.gmatch(redis.call('HGET', KEYS[7], 'forks') or '', '%S+') do
                if #forks < 16 then forks[#forks + 1] = fork end
            end
            gen = fresh
            redis.call('HSET', KEYS[7], 'gen', gen, 'run', run, 'forks', table.concat(forks, ' '))
        end
    end
    for _, event in ipairs(events) do
        seq = seq + 1
        local json = { '{"gen":"', gen, '","seq":', int(seq), ',"at":', int(at), ',"type":"', event.type,
            '","group":', cjson.encode(group) }
        for _, field in ipairs(FIELDS) do
            if event[field] then
                json[#json + 1] = ',"' .. field .. '":'
                json[#json + 1] = event[field]
            end
        end
        json[#json + 1] = '}'
        local text = table.concat(json)
        redis.call('XADD', KEYS[6], 'MAXLEN', '~', retain, int(seq) .. '-0', 'e', text)
        redis.call('HSET', KEYS[7], 'seq', int(seq))
        -- A user without rights to the channel must not stop here, half done. Who missed it looks, and reads the stream.
        redis.pcall('PUBLISH', KEYS[6], text)
    end
end

-- Whether the log no longer holds what had this mark, <gen>:<seq>.
local function is_lost(of)
    local its_gen, its_seq = string.match(of, '^(%w+):(%d+)$')
    if not its_gen then return true end
    its_seq = tonumber(its_seq)
    if its_gen == gen then return its_seq > seq end
    for fork, kept in string.gmatch(redis.call('HGET', KEYS[7], 'forks') or '', '(%w+)@(%d+)') do
        if fork == its_gen then return its_seq > tonumber(kept) end
    end
    return true
end

-- MARK: changes

local function lease_of(text) return tonumber(string.match(text or '', '^{"session":"[^"]*","leaseMs":(%d+)')) or 0 end
local function session_of(text) return string.match(text or '', '^{"session":"([^"]*)"') or '' end

-- How many members have which lease, so that the shortest and the longest are known without a look at all.
local function count_lease(ms, by)
    if redis.call('HINCRBY', KEYS[3], 'lease:' .. int(ms), by) <= 0 then
        redis.call('HDEL', KEYS[3], 'lease:' .. int(ms))
    end
end

local function look_at_leases()
    shortest, longest = 0, 0
    local fields = redis.call('HKEYS', KEYS[3])
    for _, field in ipairs(fields) do
        local ms = tonumber(string.match(field, '^lease:(%d+)$'))
        if ms then
            if shortest == 0 or ms < shortest then shortest = ms end
            if ms > longest then longest = ms end
        end
    end
    redis.call('HSET', KEYS[3], 'shortest', int(shortest), 'longest', int(longest))
end

-- A new version: one change set.
local function change(events)
    local is_new = version == 0
    version = version + 1
    for _, event in ipairs(events) do
        event.version = int(version)
        if #events > 1 then event.of = int(#events) end
    end
    append(events)
    mark = gen .. ':' .. int(seq)
    redis.call('HSET', KEYS[3], 'version', int(version), 'mark', mark)
    if is_new then redis.call('SADD', KEYS[5], group) end
end

local function take_out(member, text)
    redis.call('ZREM', KEYS[1], member)
    redis.call('HDEL', KEYS[2], member)
    redis.call('HDEL', KEYS[3], 'was:' .. member)
    count_lease(lease_of(text), -1)
end

-- MARK: time

if now < last then
    offset = offset + last - now
    now = last
elseif is_gap then
    local gap = now - last
    gaps = gaps + 1
    now = gaps < 3 and last or last + pace
    offset = now - at
    local held, hold = 0, math.min(longest, math.max(shortest, HOLD))
    if now - hold_until >= hold then
        held = hold
        hold_until = now + hold
    end
    append({ { type = 'coordinator.gap', reason = '"silence"',
        detail = '{"gapMs":' .. int(gap) .. ',"holdMs":' .. int(held) .. '}' } })
    redis.call('HSET', KEYS[3], 'offset', int(offset), 'holdUntil', int(hold_until), 'gaps', int(gaps))
end

-- The name of the server, unless it may not be asked: another caller may.
local function note_server()
    redis.call('HSET', KEYS[3], 'runAt', int(now))
    if server() ~= '' then redis.call('HSET', KEYS[3], 'run', server()) end
end

if first[1] and (now - run_at >= SERVER_PACE or (tonumber(first[2]) <= now and now >= hold_until)) then
    if server() ~= '' and group_run ~= '' and server() ~= group_run then
        local grace = 4 * pace_of()
        append({ { type = 'coordinator.gap', reason = '"server"',
            detail = '{"gapMs":0,"holdMs":' .. int(grace) .. '}' } })
        for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
            redis.call('ZINCRBY', KEYS[1], int(grace), member)
        end
        first = redis.call('ZRANGE', KEYS[1], 0, 1, 'WITHSCORES')
    end
    note_server()
end

-- MARK: versions never go back

if is_behind then
    local was = version
    version = known_version
    hold_until = math.max(hold_until, now + math.max(longest, known_longest))
    recover_until = hold_until
    change({ { type = 'state.rolledBack',
        detail = '{"from":' .. int(known_version) .. ',"to":' .. int(was) .. '}' } })
    if was == 0 then redis.call('SADD', KEYS[5], group) end
    if ARGV[8] ~= '' then redis.call('HSET', KEYS[4], 'seed', ARGV[8], 'unit', ARGV[9]) end
    redis.call('HSET', KEYS[3], 'holdUntil', int(hold_until), 'recoverUntil', int(recover_until))
end

-- MARK: the dead

if first[1] and tonumber(first[2]) <= now and now >= hold_until then
    local dead = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', int(now), 'WITHSCORES', 'LIMIT', 0, SWEEP)
    local events, texts, is_among = {}, {}, false
    for i = 1, #dead, 2 do is_among = is_among or dead[i] == id end
    if record and not is_among then -- one of more than 64: the caller is told, so it is taken out
        local ends = tonumber(redis.call('ZSCORE', KEYS[1], id) or 0)
        if ends <= now then
            dead[#dead + 1] = id
            dead[#dead + 1] = ends
        end
    end
    for i = 1, #dead, 2 do
        local text = redis.call('HGET', KEYS[2], dead[i]) or ''
        texts[#texts + 1] = text
        events[#events + 1] = { type = 'member.expired', member = cjson.encode(dead[i]),
            detail = '{"session":' .. cjson.encode(session_of(text)) .. ',"lateMs":' .. int(now - dead[i + 1]) .. '}' }
    end
    change(events)
    for i = 1, #dead, 2 do
        take_out(dead[i], texts[(i + 1) / 2])
        if dead[i] == id then record, is_mine = false, false end
    end
    look_at_leases()
    first = redis.call('ZRANGE', KEYS[1], 0, 1, 'WITHSCORES')
end

-- MARK: the verbs

local status = 'watching'
if verb == 'beat' then
    if is_mine then
        status = 'member'
        renew(tonumber(ARGV[12]))
    elseif record then
        status = 'replaced'
    else
        status = is_lost(ARGV[13]) and 'unknown' or 'expired'
    end
elseif verb == 'join' then
    local lease_ms, text, mode, was = tonumber(ARGV[12]), ARGV[13], ARGV[14], {}
    local may_take = not record or mode == 'first' or mode == 'over:' .. session_of(record)
    if record and not is_mine then
        for old in string.gmatch(redis.call('HGET', KEYS[3], 'was:' .. id) or '', '%S+') do
            may_take = may_take and old ~= session
            if #was < 3 then was[#was + 1] = old end
        end
    end
    local since = string.match(mode, '^stay:(.*)$')
    if record and not is_mine and not may_take then
        status = 'replaced'
    elseif since and not record then
        status = since ~= '' and is_lost(since) and 'unknown' or 'expired'
    else
        status = 'member'
        local was_empty = not first[1]
        if not is_mine then
            local event = { type = 'member.joined', member = cjson.encode(id), reason = '"new"', detail = text }
            if record then
                event.reason, event.previous = '"replaced"', cjson.encode(session_of(record))
            end
            change({ event })
            if redis.call('HSETNX', KEYS[4], 'seed', ARGV[15]) == 1 then redis.call('HSET', KEYS[4], 'unit', ARGV[16]) end
            if record then
                table.insert(was, 1, session_of(record))
                redis.call('HSET', KEYS[3], 'was:' .. id, table.concat(was, ' '))
            end
        elseif record ~= text then
            change({ { type = 'member.updated', member = cjson.encode(id), detail = text } })
        end
        if record ~= text then
            redis.call('HSET', KEYS[2], id, text)
            local lease_before = record and lease_of(record)
            if lease_before ~= lease_ms then
                if lease_before then count_lease(lease_before, -1) end
                count_lease(lease_ms, 1)
                look_at_leases()
            end
        end
        if was_empty then note_server() end
        renew(lease_ms)
    end
elseif verb == 'leave' then
    if record and (session == '' or is_mine) then
        status = 'left'
        local event = { type = 'member.left', member = cjson.encode(id),
            detail = '{"session":' .. cjson.encode(session_of(record)) .. '}' }
        if ARGV[12] ~= '' then event.reason = cjson.encode(ARGV[12]) end
        if ARGV[13] ~= '' then event.actor = cjson.encode(ARGV[13]) end
        change({ event })
        take_out(id, record)
        look_at_leases()
        first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
    else
        status = 'gone'
    end
elseif verb ~= 'watch' then
    return redis.error_reply('ERR group.lua: unknown verb ' .. tostring(verb))
end

-- MARK: the view

local answer = view(status)
local wants_leases = verb == 'watch' and id == 'leases'
if known_mark ~= mark or wants_leases then
    answer[10] = redis.call('HGETALL', KEYS[2])
    answer[11] = {}
    if wants_leases then
        local leases = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
        for i = 1, #leases, 2 do
            answer[11][i] = leases[i]
            answer[11][i + 1] = math.max(0, leases[i + 1] - now)
        end
    end
    local policy = redis.call('HMGET', KEYS[4], 'seed', 'unit')
    answer[12], answer[13] = policy[1] or '', policy[2] or ''
end
return answer
