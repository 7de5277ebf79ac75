-- SPDX-License-Identifier: Apache-2.0
-- Everything that happens to a group. Every call, whatever its verb, also looks at the clock: it takes out dead
-- members, and answers with the group as it is now. The event log is here too, for every change is an event.
--
-- The files of this folder are one script. The library joins them in the order of their names; in a shell:
--    cat group-*.lua > group.lua; redis-cli --eval group.lua …
--
-- KEYS   1 leases:<group>, 2 members:<group>, 3 state:<group>, 4 policy:<group>, 5 groups, 6 events, 7 log,
--        8 candidates:<group>, 9 changes:<group>, 10 gone:<group>, 11 the absent key, which never exists
-- ARGV   1 verb, 2 group, 3 a random text for a new generation of the log, 4 how many events are kept,
--        5 the version of the group the caller knows (0: none), 6 its mark (''; '-': it does not ask),
--        7 the longest lease it knows of in ms (0), 8 its seed and 9 its points per weight, if it knows them (''),
--        10 the highest epoch it knows (0), then by verb
--   watch  11 'leases' to be told them, and the report, else ''; 12 the next of the answer before, if any, else ''
--   beat   11 member, 12 session, 13 lease in ms, 14 the mark of its join; and of a candidate
--          15 claim, 16 position, 17 unfit
--   beats  of many members of one process, none of them a candidate, whose caller does not ask: 11 how many; then for
--          each member, session, lease in ms, the mark of its join
--   join   11 member, 12 session, 13 lease in ms, 14 record, 15 from whom it may take the id: 'first' anybody, 'again'
--          nobody, 'over:<session>' that session, 'stay:<mark of its join>' nobody, and it does not come in either: a
--          change of a member that is there (without a mark, one that is not there has expired and was never lost);
--          16 seed, 17 points per weight, for a group without policy; 18 how many members a group may have, 19 how
--          many groups there may be; and of a candidate 20 claim, 21 position, 22 unfit
--   leave  11 member, 12 session ('' for any), 13 reason, 14 actor; it is the member's own word, so that its role is
--          over at once, only with its session and without an actor
--   order  11 what ('switchover', 'abort', 'failover', 'pause', 'resume', 'maintenance', 'acknowledge',
--          'settings', 'breaker', 'remove'), 12 member (''), 13 a number (ms; maintenance: 1 on, 0 off; remove: for how
--          long it must have been empty), 14 actor, 15 reason, 16 the order's own id, 17 and on: settings, name and
--          value of each; breaker: 'breaker' and 'automatic', 'open' or 'closed'
--   note   11 type, 12 member, 13 reason, 14 actor, 15 detail: an event that changes nothing
-- RESULT { status, generation, sequence, version, mark, ms to the next death, pace in ms, ms of expiry grace, ms of
--          recovery, members, leases, seed, points per weight, role, settings, report }
--   status    watch: 'watching'; leave: 'left' or 'gone' (it was not there); order: 'ordered' or 'refused'; note:
--             'noted'; join and beat: 'member', 'replaced' (another session has the id), 'expired' (it was taken out,
--             or left), 'unknown' (Redis lost it: it must join again under the same session); beats: 'beats:' and a
--             letter for each, the first of its status; of a join 'full' (the group has as many members as it may),
--             'tooManyGroups' (there are as many groups as there may be), or 'taken:<ms>:<address>' (another lives
--             under the id and keeps it, for so many ms unless it is heard of again)
--   generation, sequence  of the event log: a caller that saw less has missed a message
--   mark      <generation>:<sequence> of the event that made this version. The caller that knows it is told nothing
--             that follows.
--   ms to the next death   or to whatever else time will decide; -1 if there are no members
--   members   id, record, id, record, … and what follows, only for a caller that knows another mark, an order, or
--             'leases'. For neither of the two, and if the members are what they were in the version that the caller
--             knows: 'unchanged'. Of a large group: 'more' (look), or { 'page', from, next, id, record, … }
--   leases    id, ms left, id, ms left, …
--   role      { epoch, primary, its session, phase, ms since, target, 1 if forced, 1 if standbys are missing (2: and so
--             the primary must not write), last primary, who was ready last, and under which epoch }
--   settings  of the election, and 'breaker': name, value, name, value, … of those that were ever set
--   report    for an order, and with the last of 'leases': { ms paused, ms of the brake, ms until anybody may be
--             elected, ms left of the handover, refusals (code, member, detail, …), candidates, the epoch under which
--             the order was carried out, which for one that is repeated is not this call (0: no order) }, candidates in
--             the order in which they would be elected: { id, lag (-1: not known), position, ms fit, penalty in
--             thousandths, 1 if in maintenance, reasons (code, detail, …) }
--
-- A full Redis refuses commands that may need memory, but only until a script has written: then the script may finish.
-- Calls that keep data or free some (a beat, a look, a leave, an order, a join of a member that is there) must not fail
-- for lack of memory, or a healthy primary would lose its role. So such a call begins with a write that needs none
-- (`HDEL` of nothing). New members and notes are refused, before anything is done. The log does not grow beyond what it
-- keeps.

local verb, known_version, known_mark = ARGV[1], tonumber(ARGV[5]), ARGV[6]
local known_epoch = tonumber(ARGV[10])
local id, session = ARGV[11], ARGV[12]
local claim, position, unfit
if verb == 'beat' then claim, position, unfit = ARGV[15], ARGV[16], ARGV[17] end
if verb == 'join' then claim, position, unfit = ARGV[20], ARGV[21], ARGV[22] end
local asks = known_mark ~= '-'
if not asks then known_mark = '' end
local SWEEP = 64
local SERVER_PACE = 10000
local NO_LEASES_PACE = 1000
local WHOLE = 64
local PAGE = 256
local PAGE_BYTES = 65536
local FEW = 16

local function int(n) return string.format('%.0f', n) end

local time = redis.call('TIME')
local at = time[1] * 1000 + math.floor(time[2] / 1000)
local log = redis.call('HMGET', KEYS[7], 'generation', 'sequence', 'run')
local state = redis.call('HMGET', KEYS[3], 'version', 'mark', 'now', 'offset', 'graceUntil', 'recoverUntil',
    'shortest', 'longest', 'gaps', 'run', 'runAt', 'epoch', 'primary', 'pSession', 'phase', 'candidates', 'checkAt',
    'pKnown', 'silentSince')
local first = redis.call('ZRANGE', KEYS[1], 0, 1, 'WITHSCORES')
local is_member_call = verb == 'beat' or verb == 'join' or verb == 'leave'
local record = is_member_call and redis.call('HGET', KEYS[2], id)

local generation, sequence = log[1] or '', tonumber(log[2] or 0)
local version, mark = tonumber(state[1] or 0), state[2] or ''
local last, offset = tonumber(state[3] or 0), tonumber(state[4] or 0)
local grace_until, recover_until = tonumber(state[5] or 0), tonumber(state[6] or 0)
local shortest, longest, gaps = tonumber(state[7] or 0), tonumber(state[8] or 0), tonumber(state[9] or 0)
local group_run, run_at = state[10] or '', tonumber(state[11] or 0)
local epoch, primary, primary_session = tonumber(state[12] or 0), state[13] or '', state[14] or ''
local phase, candidates, check_at = state[15] or 'vacant', tonumber(state[16] or 0), tonumber(state[17] or 0)

local function pace_of() return shortest > 0 and math.min(1000, math.floor(shortest / 5)) or NO_LEASES_PACE end
local now, pace = at + offset, pace_of()
-- Since the last call that is known here, by the clocks of the servers.
local away = now - last
local is_gap = now - last > 2.5 * pace and first[1] and last > 0
local is_behind = known_version > version or (known_version == version and known_mark ~= mark)
local is_epoch_behind = known_epoch > epoch
-- The choice of the primary depends on time, which `checkAt` knows, on what candidates say, and on calls that are not
-- quiet anyway.
local is_electing = (claim and candidates > 0 and (primary == '' or phase == 'handingOver'))
    or (check_at > 0 and now >= check_at)
local is_due = first[1] and tonumber(first[2]) <= now and now >= grace_until
local is_server_due = first[1] and now - run_at >= SERVER_PACE
local prefix = '{"session":"' .. (session or '') .. '",'
local is_mine = record and string.sub(record, 1, #prefix) == prefix

-- The caller's new lease; `first` stays the one that ends next.
local function renew(lease_ms)
    local ends = now + lease_ms
    -- A full Redis may refuse this, though it needs no memory.
    if type(redis.pcall('ZADD', KEYS[1], int(ends), id)) ~= 'number' then
        redis.call('HDEL', KEYS[3], '')
        redis.call('ZADD', KEYS[1], int(ends), id)
    end
    if not first[1] or first[1] == id then
        if first[3] and tonumber(first[4]) < ends then first = { first[3], first[4] } else first = { id, ends } end
    elseif ends < tonumber(first[2]) then
        first = { id, ends }
    end
end

local is_now_written = false -- with a change
local function view(status)
    -- A group that never had a member leaves nothing behind. (A full Redis: as above.)
    if version > 0 and not is_now_written and type(redis.pcall('HSET', KEYS[3], 'now', int(now))) ~= 'number' then
        redis.call('HDEL', KEYS[3], '')
        redis.call('HSET', KEYS[3], 'now', int(now))
    end
    if gaps > 0 and not is_gap then redis.call('HDEL', KEYS[3], 'gaps') end
    local next_ms = -1
    if first[1] then next_ms = math.max(0, math.max(tonumber(first[2]), grace_until) - now) end
    if check_at > 0 and (next_ms < 0 or check_at - now < next_ms) then next_ms = math.max(0, check_at - now) end
    return { status, generation, sequence, version, mark, next_ms, pace_of(), math.max(0, grace_until - now),
        math.max(0, recover_until - now) }
end

-- Whether a claim says nothing new.
local function is_known(said)
    if said == '' then return true end
    local kind, of = string.match(said, '^(%a):(%d+)')
    of = tonumber(of)
    if not of then return true end
    if primary ~= id or primary_session ~= session or of ~= epoch then return of < epoch end
    return (kind == 'r' and phase ~= 'elected') or (kind == 'e' and phase == 'elected')
end

-- Whether the caller is the primary and says that it has begun. Then the primary before it has stopped: that one knew
-- the caller as a candidate, and had its promise to wait, or did not have it and so had to stop.
local function acts()
    return primary ~= '' and primary == id and primary_session == session
        and string.match(claim or '', '^[er]:(%d+)') == int(epoch)
end

-- What a candidate says of itself with each beat: <fit since> <barred until> <joined with version> <position, or ->
-- <unfit>.
local function note_status()
    local old = claim and redis.call('HGET', KEYS[8], id)
    if not old then return end
    local since, kept, before = string.match(old, '^(%d+) (%d+ %d+) %S+ (.*)$')
    if unfit == '' and before ~= '' then since = int(now) end
    local text = since .. ' ' .. kept .. ' ' .. position .. ' ' .. unfit
    if text ~= old then redis.call('HSET', KEYS[8], id, text) end
end

-- Nothing happened but time: nearly every call. What follows is not even built then. Nor for a caller that does not ask
-- what happened: one of many members of a process, which is told by the others.
local is_quiet = now >= last
    and not (is_gap or is_behind or is_due or is_server_due or is_epoch_behind or is_electing)
if verb == 'beat' then
    is_quiet = is_quiet and is_mine and (not claim or is_known(claim))
elseif verb == 'beats' then
    if is_quiet and not asks then
        local ids, ends = {}, {}
        for i = 1, tonumber(ARGV[11]) do ids[i] = ARGV[4 * i + 8] end
        local records = redis.call('HMGET', KEYS[2], unpack(ids))
        for i = 1, #ids do
            local its = '{"session":"' .. ARGV[4 * i + 9] .. '",'
            is_quiet = is_quiet and records[i] and string.sub(records[i], 1, #its) == its
            ends[2 * i - 1], ends[2 * i] = int(now + tonumber(ARGV[4 * i + 10])), ids[i]
        end
        if is_quiet then
            if type(redis.pcall('ZADD', KEYS[1], unpack(ends))) ~= 'number' then
                redis.call('HDEL', KEYS[3], '')
                redis.call('ZADD', KEYS[1], unpack(ends))
            end
            first = redis.call('ZRANGE', KEYS[1], 0, 1, 'WITHSCORES')
            return view('beats:' .. string.rep('m', #ids))
        end
    end
    is_quiet = false
else
    is_quiet = is_quiet and verb == 'watch' and id == ''
end
if is_quiet and (known_mark == mark or not (asks or claim)) then
    if verb == 'watch' then return view('watching') end
    renew(tonumber(ARGV[13]))
    note_status()
    if (tonumber(state[18] or 0) ~= version or state[19]) and acts() then
        redis.call('HSET', KEYS[3], 'pKnown', int(version))
        redis.call('HDEL', KEYS[3], 'silentSince', 'copyVersion', 'gaveUp', 'vouched')
    end
    return view('member')
end
