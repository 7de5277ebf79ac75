-- SPDX-License-Identifier: Apache-2.0
-- group.lua: everything that happens to a group. Every call, whatever its verb, is also a look at the clock: it takes out
-- who is dead, and answers with the group as it is now. And the event log, for every change is one.
--
-- KEYS   1 leases:<group>, 2 members:<group>, 3 state:<group>, 4 policy:<group>, 5 groups, 6 events, 7 log,
--        8 candidates:<group>, 9 changes:<group>, 10 gone:<group>
-- ARGV   1 verb, 2 group, 3 a random text for a new generation of the log, 4 how many events are kept,
--        5 the version of the group the caller knows (0: none), 6 its mark (''; '-': it does not ask), 7 the longest lease it knows of in ms (0),
--        8 its seed and 9 its unit, if it knows them (''), 10 the highest epoch it knows (0), then by verb
--   watch  11 'leases' to be told them, and the report, else ''; 12 the next of the answer before, if it had one, else ''
--   beat   11 member, 12 session, 13 lease in ms, 14 the mark of its join; and of a candidate 15 claim, 16 position, 17 unfit
--   beats  of many members of one process, none of them a candidate, whose caller does not ask: 11 how many; then for each
--          member, session, lease in ms, the mark of its join
--   join   11 member, 12 session, 13 lease in ms, 14 record, 15 from whom it may take the id: 'first' anybody, 'again' nobody,
--          'over:<session>' that session, 'stay:<mark of its join>' nobody, and it does not come in either: a change of a
--          member that is there (without a mark, one that is not there has expired and was never lost);
--          16 seed, 17 unit, for a group without policy; 18 how many members a group may have, 19 how many groups there may be;
--          and of a candidate 20 claim, 21 position, 22 unfit
--   leave  11 member, 12 session ('' for whoever is there), 13 reason, 14 actor; it is the member's own word, so that its role is
--          over at once, only with its session and without an actor
--   order  11 what ('switchover', 'abort', 'failover', 'pause', 'resume', 'maintenance', 'acknowledge', 'settings', 'breaker',
--          'remove'),
--          12 member (''), 13 a number (ms; maintenance: 1 on, 0 off; remove: for how long it must have been empty), 14 actor, 15 reason, 16 the order's own id, 17… settings:
--          name, value, name, value, …; breaker: 'breaker' and 'automatic', 'open' or 'closed'
--   note   11 type, 12 member, 13 reason, 14 actor, 15 detail: an event that changes nothing
-- RESULT { status, gen, seq, version, mark, ms to the next death, pace in ms, ms held, ms of recovery,
--          members, leases, seed, unit, role, settings, report }
--   status    watch: 'watching'; leave: 'left' or 'gone' (it was not there); order: 'ordered' or 'refused'; note: 'noted';
--             join and beat: 'member', 'replaced' (another session has the id), 'expired' (it was taken out, or left),
--             'unknown' (Redis lost it: it shall join again under the same session); beats: 'beats:' and a letter for each, the
--             first of its status; of a join 'full' (the group has as many
--             members as it may), 'tooManyGroups' (there are as many groups as there may be), or
--             'taken:<ms>:<address>' (another lives under the id and keeps it, for so many ms unless it is heard of again)
--   gen, seq  of the event log: whoever saw less has missed a message
--   mark      <gen>:<seq> of the event that made this version. The caller that knows it already is told nothing that follows.
--   ms to the next death   or to whatever else time will decide; -1 if there are no members
--   members   id, record, id, record, … and what follows, only for a caller that knows another mark, an order, or 'leases'. For
--             neither of the two, and if the members are what they were in the version that the caller knows: 'unchanged'.
--             Of a large group: 'more' (look), or { 'page', from, next, id, record, … } (below, under Pages)
--   leases    id, ms left, id, ms left, …
--   role      { epoch, primary, its session, phase, ms since, target, 1 if forced, 1 if standbys are missing (2: and so
--             the primary must not write), last primary, who was ready last, and under which epoch }
--   settings  of the election, and 'breaker': name, value, name, value, … of those that were ever set
--   report    for an order, and with the last of 'leases': { ms paused, ms held by the brake, ms until anybody may be elected, ms left of the drain,
--             refusals (code, member, detail, …), candidates, the epoch under which the order was carried out, which for one that
--             is repeated is not this call (0: no order) } with candidates in the order in which they would be elected:
--             { id, lag (-1: not known), position, ms fit, penalty in thousandths, 1 if in maintenance, reasons (code, detail, …) }
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
-- The primary. Who may be it are the candidates: members whose record says so. A group without one elects nobody. It has an
-- epoch, which grows with each election, and a phase: 'vacant'; 'elected', it is being promoted; 'ready', it said that it
-- is; 'draining', it hands over to the target; 'recovering', Redis lost data and whoever holds the epoch may say so.
-- Every call that is not quiet ends with the same decision (`decide`): at most one end of a role and one election. Quiet is a
-- beat or a look at a moment at which nothing is due and that says nothing new, also if it is told what others were told before
-- it; while the role is vacant or handed over no beat of a candidate is quiet. What a candidate does
-- is not told by verbs but claimed with each beat, so that an answer that is lost does no harm, for the next beat says it again:
--    e:E  I am promoted for E; r:E  I am ready; d:E:P:V  I stopped, P is my last position; g:E:why  I gave E up for good
-- (Without P the target is elected only where no candidate tells a position. V is the version the holder saw last. A
-- switchover can be taken back and another ordered while that is on its way, and the holder go on in between: what it says of
-- the first is no answer to the second, whose version is higher.)
-- No two at once. A role ends by its holder's own clock before its lease does, and never goes on under the same epoch. So
-- it can be given to another as soon as the lease is over, or the holder itself has said that it is over (it left, gave
-- up, drained). What ends it otherwise (its session is replaced, it is taken out, a failover by hand) is heard by the
-- holder later: nobody is elected before the lease as it then was is over (`electAfter`). Nor
--  * for one lease after the first candidate of a group came: Redis may have lost a group that had a primary;
--  * for the longest lease after the server is another one, or lost data, of those that come then as well: it may have lost an election. (It may have lost
--    more than one; the next epoch leaves out 16. Who knows a higher epoch says so, and then that is gone on from.)
-- As long as that lasts no switchover is taken (`waiting`), no failback begins, and a primary that stopped for one keeps the role.
-- Where the setting `whenAway` is 'hold', a primary that cannot reach Redis goes on as long as every candidate that it knows
-- promises it, again and again, to begin no role meanwhile. Who was no candidate yet in the last version that the primary
-- said it knew (`pKnown`) has promised nothing: if it is not known that the primary stopped (`silentSince`), such a one is not elected
-- before the time is over for which a primary may go on at most (`holdMs`), nor by an operator's order.
-- When the server is another one, nobody knows whether it has lost an election, so every candidate is such a one. There is nobody
-- to wait for if all of this holds:
--  * The primary that the copy knows says itself that its role is over (`vouched`). So whoever was elected in what was lost was elected
--    while that primary was silent, and then was known to it. For had it said so before, nobody unknown to it would have been elected
--    before it heard that it was heard (`gaveUp`); and of that it would know (next).
--  * Nobody knows anything that was lost: a mark that the log does not hold, a version, an epoch.
--  * All members are back that were there when the server was the same for the last time (`copyVersion`), and none has gone since but by
--    its own word (`missed`). For whom the primary knew the copy knows; had it been elected, it would say so.
--  * Less than `holdMs` has passed since the last call that the copy knows, by the clocks of both servers. After that time even
--    somebody unknown is elected.
-- (Not found so: orders that were lost. Who ordered `whenAway` fence or a smaller `holdMs` said that the old primary is dead.)
-- Who may lead, and in which order, is in `rank`. Who gave an epoch up because it could not lead is barred for one lease, and
-- whoever lost the role against its will gets a penalty, which halves in 5 min; with 3 it ranks behind those with less. More
-- automatic failovers than `brakeCount` in `brakeWindowMs`, and the group is held, unless one candidate alone can lead. And who failed
-- by itself while it had the role (`FAILED`) rests: after the second time in a row 4 s, then twice as long each time, up to a minute.
-- That is kept by id, not with the member, for a job that ends leaves the group and comes back.
--
-- Members unchanged. Most changes of a large group are of its role only, and all who look at it ask after each. The version of
-- the last change of members is kept (`memberVersion`). Whose version is no older, and was made in this generation of the log, so
-- that it is none that was lost, has them. (Where INFO is forbidden generations do not end, so all are told all.)
--
-- Pages. An answer is never as large as a group may be: 64 joins at once into a group of 9,000, each answered with all of
-- them, filled the memory of Redis faster than anybody read. A group of up to 64 members is told whole. Of a larger one it
-- is kept in which version each member last changed (`changes`), and when the last 1,024 that are gone went (`gone`); a
-- look is told up to 256 of what changed since the version that it knows, or else of all, in the order of these versions,
-- a record of '' for who is gone; and a `next` to go on from, '' with the last. Who changes meanwhile comes again at the end,
-- so that with the last page all is as it is now. `from` is '' from the beginning, 'known' from what the caller said it
-- knew, else the `next` that it gave: it says <gen>:<version when it began>:<how far>, and is good as long as no one is
-- forgotten that went since it began. Other calls are told up to 16 changes, or else 'more'.
--
-- Removal. A group that nobody is in may be removed: its name, its ring and its settings go. Its state stays for 30 days, and
-- whoever joins meanwhile goes on from there. It is refused as long as somebody may act as primary of whom nobody knows when it stops.
-- Versions and epochs never go back for a name, for somebody may still look at it, or guard a resource by its last epoch. When the
-- state is gone nobody knows any more which names there were. So the highest version and epoch of all that were ever removed are
-- kept with the log (`versionFloor`, `epochFloor`), and a new group begins above them, whatever its name.
-- An order may say how long the group must have been empty, with nothing that is to be kept (a pause, a hold, a maintenance, a forced
-- breaker, an order that is under way). That time begins with the first such order (`emptySince`), is group time, so the server's clock,
-- and begins anew after each join: whoever gives such orders only asks.
--
-- The breaker. Whether members are called at all each process decides for itself, by what it sees. But an operator may
-- order it for all of them: 'open', nobody is called; 'closed', calls are made, however many fail; 'automatic', each
-- decides again. It is stored with the settings, so it comes with every answer that has them, and makes a version, so
-- that all look at once.
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
-- Two machines with one id would take it from each other for ever, and the role with it. So whoever lives, as its lease says, is
-- not replaced by one that is somewhere else: a restarted process has the address of before, and one that moved waits for the
-- lease. Where addresses tell nothing, a primary that failed again and again of late is replaced after a rest only (below).
--
-- A full Redis refuses commands that may need memory, but only until a script has written: then it must be let end. What keeps
-- what is there or makes it less (a beat, a look, a leave, an order, a join of one that is there) must not fail for want of memory,
-- for a healthy primary would lose its role. So such a call begins with a write that needs none (`HDEL` of nothing). Who is new and
-- notes are refused, before anything is done. The log does not grow beyond what it keeps.
--
-- The log. A seq is given once within a generation. A generation ends when the log may have stepped back: when the
-- server that writes it is another process, or was promoted (`run`). What the old one wrote up to here is kept (`forks`: a
-- cursor of it is good up to there), and the numbers go on. With INFO forbidden by an ACL nothing of this is noticed.
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
local log = redis.call('HMGET', KEYS[7], 'gen', 'seq', 'run')
local state = redis.call('HMGET', KEYS[3], 'version', 'mark', 'now', 'offset', 'holdUntil', 'recoverUntil',
    'shortest', 'longest', 'gaps', 'run', 'runAt', 'epoch', 'primary', 'pSession', 'phase', 'candidates', 'checkAt', 'pKnown',
    'silentSince')
local first = redis.call('ZRANGE', KEYS[1], 0, 1, 'WITHSCORES')
local is_member_call = verb == 'beat' or verb == 'join' or verb == 'leave'
local record = is_member_call and redis.call('HGET', KEYS[2], id)

local gen, seq = log[1] or '', tonumber(log[2] or 0)
local version, mark = tonumber(state[1] or 0), state[2] or ''
local last, offset = tonumber(state[3] or 0), tonumber(state[4] or 0)
local hold_until, recover_until = tonumber(state[5] or 0), tonumber(state[6] or 0)
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
-- Who is to be primary depends on time, which `checkAt` knows, on what candidates say, and on what is no quiet call anyway.
local is_electing = (claim and candidates > 0 and (primary == '' or phase == 'draining')) or (check_at > 0 and now >= check_at)
local is_due = first[1] and tonumber(first[2]) <= now and now >= hold_until
local is_server_due = first[1] and now - run_at >= SERVER_PACE
local prefix = '{"session":"' .. (session or '') .. '",'
local is_mine = record and string.sub(record, 1, #prefix) == prefix

-- The caller's new lease; `first` stays the one that ends next.
local function renew(lease_ms)
    local ends = now + lease_ms
    -- A full Redis cannot know that this needs no memory.
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

local function view(status)
    -- A group that never had a member leaves nothing behind. (A full Redis: as above.)
    if version > 0 and type(redis.pcall('HSET', KEYS[3], 'now', int(now))) ~= 'number' then
        redis.call('HDEL', KEYS[3], '')
        redis.call('HSET', KEYS[3], 'now', int(now))
    end
    if gaps > 0 and not is_gap then redis.call('HDEL', KEYS[3], 'gaps') end
    local next_ms = -1
    if first[1] then next_ms = math.max(0, math.max(tonumber(first[2]), hold_until) - now) end
    if check_at > 0 and (next_ms < 0 or check_at - now < next_ms) then next_ms = math.max(0, check_at - now) end
    return { status, gen, seq, version, mark, next_ms, pace_of(), math.max(0, hold_until - now),
        math.max(0, recover_until - now) }
end

-- Whether a claim says nothing that is not known.
local function is_known(said)
    if said == '' then return true end
    local kind, of = string.match(said, '^(%a):(%d+)')
    of = tonumber(of)
    if not of then return true end
    if primary ~= id or primary_session ~= session or of ~= epoch then return of < epoch end
    return (kind == 'r' and phase ~= 'elected') or (kind == 'e' and phase == 'elected')
end

-- Whether the caller is the primary and says that it has begun. Then whoever had the role before has none any more: it was
-- known to that one, and had promised it to wait, or had not and so it had to stop.
local function acts()
    return primary ~= '' and primary == id and primary_session == session
        and string.match(claim or '', '^[er]:(%d+)') == int(epoch)
end

-- What a candidate says of itself with each beat: <fit since> <barred until> <joined with version> <position, or -> <unfit>.
local function note_status()
    local old = claim and redis.call('HGET', KEYS[8], id)
    if not old then return end
    local since, kept, before = string.match(old, '^(%d+) (%d+ %d+) %S+ (.*)$')
    if unfit == '' and before ~= '' then since = int(now) end
    local text = since .. ' ' .. kept .. ' ' .. position .. ' ' .. unfit
    if text ~= old then redis.call('HSET', KEYS[8], id, text) end
end

-- Nothing happened but time: nearly every call. What follows is not even built then. And so it is for who does not ask what
-- happened, one of many members of a process that is told by others.
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

-- MARK: what the caller is told

local wants_leases = verb == 'watch' and id == 'leases'

local settings_read
local function setting(name, default)
    if not settings_read then
        settings_read = {}
        local flat = redis.call('HGETALL', KEYS[4])
        for i = 1, #flat, 2 do settings_read[flat[i]] = flat[i + 1] end
    end
    local value = settings_read[name]
    if value == nil then return default end
    return type(default) == 'number' and tonumber(value) or value
end

local SETTINGS = { 'rank', 'maxLag', 'lagStep', 'zone', 'failback', 'failbackAfterMs', 'drainMs', 'minStandbys',
    'minStandbysAction', 'brakeCount', 'brakeWindowMs', 'whenAway', 'holdMs', 'breaker' }

local role, size
local function num(name) return tonumber(role[name]) or 0 end

-- The changes of a large group from a place on, as many as an answer takes. Those of one version stay together.
local function page(from, began, after, most)
    local here = redis.call('ZRANGEBYSCORE', KEYS[9], '(' .. after, '+inf', 'WITHSCORES', 'LIMIT', 0, most + SWEEP + 2)
    local gone = redis.call('ZRANGEBYSCORE', KEYS[10], '(' .. after, '+inf', 'WITHSCORES', 'LIMIT', 0, most + SWEEP + 2)
    local list, bytes, count, i, j, place = { 'page', from, '' }, 0, 0, 1, 1, after
    while here[i] or gone[j] do
        local is_gone = not here[i] or (gone[j] and tonumber(gone[j + 1]) < tonumber(here[i + 1]))
        local member, score = is_gone and gone[j] or here[i], int(tonumber(is_gone and gone[j + 1] or here[i + 1]))
        if (count >= most or bytes >= PAGE_BYTES) and score ~= place then
            list[3] = gen .. ':' .. int(began) .. ':' .. place
            break
        end
        if is_gone then j = j + 2 else i = i + 2 end
        local text = not is_gone and redis.call('HGET', KEYS[2], member) or ''
        list[#list + 1] = member
        list[#list + 1] = text
        count, bytes, place = count + 1, bytes + #member + #text, score
    end
    return list
end

-- What the caller is told of the members. Versions of this generation are none that were lost.
local function members_for(has_cursor)
    local floor, changed = tonumber(role.changesFloor) or math.huge, tonumber(role.memberVersion) or math.huge
    local cursor_gen, began, after = string.match(has_cursor and ARGV[12] or '', '^(%w+):(%d+):(-?%d+)$')
    if cursor_gen == gen and gen ~= '' and tonumber(began) >= floor then
        return page(ARGV[12], tonumber(began), after, PAGE)
    end
    local is_known = gen ~= '' and string.match(known_mark, '^(%w+):') == gen
        and (log[3] or '') ~= ''
    if is_known and not wants_leases and known_version >= changed then return 'unchanged' end
    if (size or redis.call('HLEN', KEYS[2])) <= WHOLE then return redis.call('HGETALL', KEYS[2]) end
    if is_known and not wants_leases and known_version >= floor then
        local list = page('known', known_version, int(known_version), verb == 'watch' and PAGE or FEW)
        if verb == 'watch' or list[3] == '' then return list end
    end
    if verb ~= 'watch' then return 'more' end
    return page('', version, '-inf', PAGE)
end

-- Behind the view: the members, the role and the settings.
local function tell(answer)
    answer[10] = members_for(verb == 'watch')
    answer[11] = {}
    if wants_leases then
        local list, start = answer[10], answer[10][1] == 'page' and 4 or 1
        for i = start, #list, 2 do
            answer[11][#answer[11] + 1] = list[i]
            answer[11][#answer[11] + 1] = math.max(0, (tonumber(redis.call('ZSCORE', KEYS[1], list[i]) or '') or now) - now)
        end
    end
    answer[12], answer[13] = setting('seed', ''), setting('unit', '')
    answer[14] = { epoch, primary, primary_session, phase, role.since ~= '' and now - num('since') or 0, role.target,
        role.forced == '1' and 1 or 0, role.short == '' and 0 or (setting('minStandbysAction', 'warn') == 'suspendWrites' and 2 or 1),
        role.lastPrimary, role.readyMember, num('readyEpoch') }
    answer[15] = {}
    for i = 1, #SETTINGS do
        local name = SETTINGS[i]
        local value = settings_read[name]
        if value then
            answer[15][#answer[15] + 1] = name
            answer[15][#answer[15] + 1] = value
        end
    end
    return answer
end

-- What an election needs, read at once and written back where it changed. Texts; '' for what is not there.
local stored
local function read_role(names)
    role, stored = {}, redis.call('HMGET', KEYS[3], unpack(names))
    for i = 1, #names do role[names[i]] = stored[i] or '' end
end

-- Nothing happened, and the caller only hears what others heard before it. Not if what it knows may have been lost, nor while
-- somebody waits to hear that its last word was heard.
local known_gen, known_seq = string.match(known_mark, '^(%w+):(%d+)$')
if is_quiet and asks and (known_mark == '' or (known_gen == gen and tonumber(known_seq) <= seq)) then
    read_role({ 'since', 'target', 'forced', 'short', 'lastPrimary', 'readyMember', 'readyEpoch', 'gaveUp', 'memberVersion',
        'changesFloor' })
    if role.gaveUp == '' then
        if verb == 'watch' then return tell(view('watching')) end
        renew(tonumber(ARGV[13]))
        note_status()
        return tell(view('member'))
    end
end

-- Something may change. All that follows is one function, for the sake of speed: Lua finds a variable of an enclosing function
-- at once, but one of the same function by a search, for each of the functions that use it.
local function act()

local group, fresh, retain, known_longest = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[7])
local HOLD = 3000
local SKIP = 16
local HALF_LIFE = 300000
local ORDERS = 8
local MAINTAINED = 128
local FAILBACK_WAIT = 3600000
local GONE = 1024
local REMEMBERED = 30 * 86400000
local MAX_LAG = 16777216
local LONGEST_REST = 60000

-- A full Redis lets on whoever has written.
if verb ~= 'note' and (verb ~= 'join' or record) then redis.call('HDEL', KEYS[3], '') end

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
local FIELDS = { 'member', 'version', 'of', 'epoch', 'previous', 'reason', 'actor', 'detail' }
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
            log[3] = run
        elseif log[3] ~= run then
            local forks = { gen .. '@' .. int(seq) }
            for fork in string.gmatch(redis.call('HGET', KEYS[7], 'forks') or '', '%S+') do
                if #forks < 16 then forks[#forks + 1] = fork end
            end
            gen = fresh
            redis.call('HSET', KEYS[7], 'gen', gen, 'run', run, 'forks', table.concat(forks, ' '))
            log[3] = run
        end
    end
    for _, event in ipairs(events) do
        seq = seq + 1
        local json = { '{"gen":"', gen, '","seq":', int(seq), ',"at":', int(at), ',"type":"', event.type,
            '","group":', cjson.encode(group) }
        for i = 1, #FIELDS do
            local field = FIELDS[i]
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

-- MARK: the role's fields

local NAMES = { 'epoch', 'primary', 'pSession', 'phase', 'candidates', 'checkAt', 'since', 'electAfter', 'vacantSince',
    'runVersion', 'copyVersion', 'missed',
    'lastPrimary', 'lastWhy', 'lastPosition', 'final', 'target', 'drainUntil', 'forced', 'orders', 'orderBy', 'orderWhy', 'skip',
    'pausedUntil', 'heldUntil', 'failovers', 'short', 'failbackAt', 'penalties', 'maintenance', 'readyMember', 'readyEpoch',
    'drainVersion', 'pKnown', 'silentSince', 'lostAt', 'failbackWait', 'failures', 'gaveUp', 'vouched', 'emptySince', 'memberVersion',
    'changesVersion', 'changesFloor', 'removed' }
read_role(NAMES)
local function put(name, value)
    role[name] = type(value) == 'number' and int(value) or value
    if name == 'epoch' then epoch = value end
    if name == 'primary' then primary = value end
    if name == 'pSession' then primary_session = value end
    if name == 'phase' then phase = value end
    if name == 'checkAt' then check_at = tonumber(value) or 0 end
end
local function elect_not_before(moment)
    if moment > num('electAfter') then put('electAfter', moment) end
end
-- A primary of which nobody knows when it stops may act without Redis for `holdMs` from here, and not less than was said before.
local function silent_from(moment)
    if moment > num('silentSince') then put('silentSince', moment) end
end
-- Somebody may act of whom nothing is heard: that all others are back is no proof any more.
local function is_missed() put('missed', version) end
local function write_role()
    local set, dropped = {}, {}
    for i = 1, #NAMES do
        local name = NAMES[i]
        local value = role[name]
        if value == (stored[i] or '') then
            -- as it was
        elseif value == '' then
            dropped[#dropped + 1] = name
        else
            set[#set + 1] = name
            set[#set + 1] = value
        end
    end
    if #set > 0 then redis.call('HSET', KEYS[3], unpack(set)) end
    if #dropped > 0 then redis.call('HDEL', KEYS[3], unpack(dropped)) end
end

-- MARK: changes

local function lease_of(text) return tonumber(string.match(text or '', '^{"session":"[^"]*","leaseMs":(%d+)')) or 0 end
local function session_of(text) return string.match(text or '', '^{"session":"([^"]*)"') or '' end

-- How many members have which lease, so that the shortest and the longest are known without a look at all members; and
-- without one at all leases, unless the shortest or the longest is gone.
local are_leases_known = shortest > 0
local function count_lease(ms, by)
    if redis.call('HINCRBY', KEYS[3], 'lease:' .. int(ms), by) <= 0 then
        redis.call('HDEL', KEYS[3], 'lease:' .. int(ms))
        if ms == shortest or ms == longest then are_leases_known = false end
    elseif shortest == 0 then
        are_leases_known = false
    elseif ms < shortest or ms > longest then
        shortest, longest = math.min(shortest, ms), math.max(longest, ms)
        redis.call('HSET', KEYS[3], 'shortest', int(shortest), 'longest', int(longest))
    end
end

local function look_at_leases()
    if are_leases_known then return end
    are_leases_known = true
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

-- A new group goes on from all that were removed.
local function begin()
    local floors = redis.call('HMGET', KEYS[7], 'versionFloor', 'epochFloor')
    version = tonumber(floors[1] or 0)
    local floor = tonumber(floors[2] or 0)
    if floor > epoch then
        put('epoch', floor)
        put('lostAt', now)
    end
end

-- A new version: one change set.
local function change(events)
    local is_new = version == 0
    if is_new then begin() end
    version = version + 1
    for _, event in ipairs(events) do
        event.version = int(version)
        if #events > 1 then event.of = int(#events) end
    end
    append(events)
    mark = gen .. ':' .. int(seq)
    redis.call('HSET', KEYS[3], 'version', int(version), 'mark', mark)
    if role.removed ~= '' then
        put('removed', '')
        redis.call('PERSIST', KEYS[3])
        is_new = true
    end
    if is_new then redis.call('SADD', KEYS[5], group) end
end

-- The version of the last change of members as it was before this call, and as it is.
local members_before, member_version
local function change_members(events)
    change(events)
    members_before = members_before or role.memberVersion
    member_version = int(version)
    put('memberVersion', member_version)
end

-- Who came or changed in this call (true), and who went (false).
local touched = {}
local function take_out(member, text)
    touched[member] = false
    redis.call('ZREM', KEYS[1], member)
    redis.call('HDEL', KEYS[2], member)
    redis.call('HDEL', KEYS[8], member)
    redis.call('HDEL', KEYS[3], 'was:' .. member)
    count_lease(lease_of(text), -1)
end

-- MARK: who may lead

-- By bytes. (Lua's own comparison follows the server's locale.)
local function is_before(one, other)
    for i = 1, math.min(#one, #other) do
        local a, b = string.byte(one, i), string.byte(other, i)
        if a ~= b then return a < b end
    end
    return #one < #other
end

-- Each of them halves with time.
local function marks(name)
    local list = {}
    for who, milli, since in string.gmatch(role[name], '([^\t\n]*)\t(%d+)\t(%d+)\n') do
        local left = math.floor(tonumber(milli) / 2 ^ math.floor((now - tonumber(since)) / HALF_LIFE))
        list[#list + 1] = { id = who, left = left, since = tonumber(since), text = who .. '\t' .. milli .. '\t' .. since .. '\n' }
    end
    return list
end

local function add_mark(name, member)
    local left, texts = 0, {}
    for _, one in ipairs(marks(name)) do
        if one.id == member then
            left = one.left
        elseif one.left >= 125 and #texts < 63 then
            texts[#texts + 1] = one.text
        end
    end
    put(name, member .. '\t' .. int(left + 1000) .. '\t' .. int(now) .. '\n' .. table.concat(texts))
end

-- Until when whoever failed by itself rests.
local function rests_until(one)
    if one.left < 2000 then return 0 end
    return one.since + math.min(LONGEST_REST, 1000 * 2 ^ math.min(10, math.floor(one.left / 1000)))
end

local function is_in_maintenance(member)
    return string.find('\n' .. role.maintenance, '\n' .. member .. '\n', 1, true) ~= nil
end

local function position_of(member)
    return tonumber(string.match(redis.call('HGET', KEYS[8], member) or '', '^%d+ %d+ %d+ (%d+) '))
end

-- Whether a primary that cannot reach Redis may go on, by the word of those it knew; and how long one that is gone for Redis
-- may do so, if it is not known to have stopped.
local function may_hold() return setting('whenAway', 'fence') == 'hold' end
-- Nobody whom the copy knows is missing, and its primary says that it has ended. (Leases that nobody renewed since are over by
-- now, so whoever is here has called.)
local function are_all_back()
    local copy = tonumber(role.copyVersion)
    return copy and role.vouched ~= '' and num('missed') <= copy and now >= num('electAfter')
        and first[1] and tonumber(first[2]) > now
end
local function silent_until()
    if primary ~= '' or role.silentSince == '' or not may_hold() or are_all_back() then return 0 end
    return num('silentSince') + setting('holdMs', 600000)
end

-- What candidates are measured by: how far the primary has come, or had.
local function reference()
    if phase == 'draining' and tonumber(role.final) then return tonumber(role.final) end
    if primary ~= '' then return position_of(primary) end
    return tonumber(role.lastPosition)
end

-- All candidates, those that may lead first, each part in the order in which they would be elected; with all reasons why one
-- may not. Data first: who lacks least, then who failed least, then who had the role and did not fail, then by zone and priority.
local function rank()
    local list, penalty, rest, furthest = {}, {}, {}, nil
    for _, one in ipairs(marks('penalties')) do penalty[one.id] = one.left end
    for _, one in ipairs(marks('failures')) do rest[one.id] = rests_until(one) end
    local statuses, unknown_until = redis.call('HGETALL', KEYS[8]), silent_until()
    for i = 1, #statuses, 2 do
        local c = { id = statuses[i], reasons = {} }
        local since, barred, joined, at_position, why = string.match(statuses[i + 1], '^(%d+) (%d+) (%d+) (%S+) (.*)$')
        local is_read, its = pcall(cjson.decode, redis.call('HGET', KEYS[2], c.id) or '')
        -- It may be written by hand.
        if not is_read or type(its) ~= 'table' or type(its.health or '') ~= 'string' then
            its = { health = 'its record cannot be read' }
        end
        local function said(name, default)
            local value = its[name]
            return type(value) == type(default) and value == value and value or default
        end
        local function because(code, detail) c.reasons[#c.reasons + 1] = { code, detail or '' } end
        c.since, c.barred = tonumber(since), math.max(tonumber(barred), rest[c.id] or 0)
        c.position = tonumber(at_position)
        c.session, c.zone, c.priority = said('session', ''), said('zone', ''), said('priority', 0)
        c.penalty, c.is_maintained = penalty[c.id] or 0, is_in_maintenance(c.id)
        c.is_primary = c.id == primary
        if c.position and (not furthest or c.position > furthest) then furthest = c.position end
        if c.is_primary then because('primary') end
        if tonumber(redis.call('ZSCORE', KEYS[1], c.id) or 0) <= now then because('lease') end
        if (its.health or '') ~= '' then because('health', its.health) end
        if why ~= '' then because('unfit', why) end
        if c.is_maintained then because('maintenance') end
        if its.weight == 0 then because('draining') end
        c.standby_reasons = #c.reasons
        if c.barred > now then because('gaveUp', int(c.barred - now)) end
        c.is_unknown = may_hold() and tonumber(joined) > num('pKnown')
        if c.is_unknown and unknown_until > now then because('unknownToPrimary', int(unknown_until - now)) end
        list[#list + 1] = c
    end
    local measure = reference() or furthest
    local limit, step = setting('maxLag', MAX_LAG), math.max(1, setting('lagStep', 1))
    local zone, is_data_first = setting('zone', ''), setting('rank', 'data') == 'data'
    for _, c in ipairs(list) do
        c.lag = -1
        if measure and c.position then
            c.lag = math.max(0, measure - c.position)
            if limit >= 0 and c.lag > limit then c.reasons[#c.reasons + 1] = { 'lag', int(c.lag) } end
        elseif measure then
            c.reasons[#c.reasons + 1] = { 'position', '' }
        end
        local bucket = measure and (c.position and math.floor(c.lag / step) or math.huge) or 0
        local has_failed = c.penalty >= 3000 and 1 or 0
        local is_new = (role.lastPrimary == c.id and (role.lastWhy == 'suspended' or role.lastWhy == 'lost')) and 0 or 1
        local is_elsewhere = (zone ~= '' and c.zone ~= zone) and 1 or 0
        local may = #c.reasons == 0 and 0 or 1
        if is_data_first then
            c.keys = { may, bucket, has_failed, is_new, is_elsewhere, -c.priority, -(c.position or -1) }
        else
            c.keys = { may, has_failed, is_new, is_elsewhere, -c.priority, bucket, -(c.position or -1) }
        end
        c.is_elsewhere, c.bucket = is_elsewhere, bucket
    end
    table.sort(list, function(one, other)
        for i = 1, 7 do
            if one.keys[i] ~= other.keys[i] then return one.keys[i] < other.keys[i] end
        end
        return is_before(one.id, other.id)
    end)
    return list
end

local function find(ranking, member)
    for _, c in ipairs(ranking) do
        if c.id == member then return c end
    end
end

-- MARK: the end of a role

-- Nobody wanted it. (An operator who takes a member out did.)
local AGAINST_ITS_WILL = { expired = true, replaced = true, suspended = true,
    promotionFailed = true, unhealthy = true, exited = true }
-- It failed by itself, or ended its work so soon that it is no use to give it back at once.
local FAILED = { replaced = true, promotionFailed = true, unhealthy = true, exited = true, finished = true }
-- Why a role ended in this call, how long after its holder was last heard of, and whom an order wants in its place.
local ended, detect_ms, favoured = nil, 0, ''

local function end_role(why, is_silent, silence)
    local is_forced = role.forced == '1'
    if is_silent then
        silent_from(math.max(now, tonumber(redis.call('ZSCORE', KEYS[1], primary) or 0)))
        is_missed()
    end
    if is_forced then why = 'failover' end
    ended, detect_ms, favoured = why, silence or 0, role.target
    if AGAINST_ITS_WILL[why] and now >= hold_until then add_mark('penalties', primary) end
    if FAILED[why] then add_mark('failures', primary) end
    local last = position_of(primary)
    put('lastPosition', last and int(last) or role.lastPosition)
    if tonumber(role.final) then put('lastPosition', role.final) end
    put('lastPrimary', primary)
    put('lastWhy', why)
    put('primary', '')
    put('pSession', '')
    put('phase', 'vacant')
    put('vacantSince', now)
    put('since', now)
    put('final', '')
    if not is_forced then put('target', '') end
end

-- It is not heard before it knows that: by the version that its end makes, the next.
local function give_up(why)
    end_role(why)
    if role.silentSince == '' then
        silent_from(now)
    elseif role.copyVersion == '' or role.vouched ~= '' then
        return
    end
    put('gaveUp', int(version) .. ' ' .. session)
end
local function know_what_became_of_it()
    local before, its_session = string.match(role.gaveUp, '^(%d+) (.*)$')
    if its_session ~= session or known_version <= tonumber(before) or string.match(known_mark, '^(%w+):') ~= gen then return end
    put('gaveUp', '')
    put(role.copyVersion ~= '' and 'vouched' or 'silentSince', role.copyVersion ~= '' and '1' or '')
end

local function is_primary(member, its_session)
    return primary ~= '' and primary == member and primary_session == its_session
end

-- MARK: time

if now < last then
    offset = offset + last - now
    now = last
    redis.call('HSET', KEYS[3], 'offset', int(offset))
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
    if server() == '' then return end
    redis.call('HSET', KEYS[3], 'run', server())
    put('runVersion', version)
end

-- Before anybody is taken out or elected, and every 10 s. True if the server is another one than the last time.
local is_server_checked = false
local function is_other_server()
    if is_server_checked then return false end
    is_server_checked = true
    local is_other = server() ~= '' and group_run ~= '' and server() ~= group_run
    if is_other then
        local grace = 4 * pace_of()
        local is_recent = away >= 0 and away < (tonumber(redis.call('HGET', KEYS[4], 'holdMs') or '') or 600000)
        put('copyVersion', role.silentSince == '' and primary ~= '' and is_recent and role.runVersion or '')
        put('gaveUp', '')
        put('vouched', '')
        -- A version: what was said to the server before, of what it knew, is no word about this one.
        change({ { type = 'coordinator.gap', reason = '"server"',
            detail = '{"gapMs":0,"holdMs":' .. int(grace) .. '}' } })
        for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
            redis.call('ZINCRBY', KEYS[1], int(grace), member)
        end
        first = redis.call('ZRANGE', KEYS[1], 0, 1, 'WITHSCORES')
        put('skip', SKIP)
        -- Whoever led may have known others than this one's copy says.
        put('pKnown', '')
        silent_from(now + longest + grace)
        put('lostAt', now)
        elect_not_before(now + longest + grace)
        if phase == 'draining' then put('drainUntil', num('drainUntil') + grace) end
    end
    note_server()
    return is_other
end

-- Else also whenever it may be another one: before its primary's last word of a role is taken, too.
local is_last_word = is_mine and primary == id and primary_session == session and string.match(claim or '', '^g:(%d+)') == int(epoch)
local knows_lost = known_mark ~= '' and known_mark ~= mark and is_lost(known_mark)
if first[1] and (now - run_at >= SERVER_PACE or (tonumber(first[2]) <= now and now >= hold_until)
    or is_gap or away < 0 or is_last_word or knows_lost) then
    is_other_server()
end
if knows_lost then put('copyVersion', '') end

-- MARK: versions never go back

if is_behind or is_epoch_behind then
    local was, note = version, ''
    if was == 0 then begin() end
    version = math.max(version, known_version)
    local longest_known = math.max(longest, known_longest)
    if is_behind then
        hold_until = math.max(hold_until, now + longest_known)
        recover_until = hold_until
    end
    if is_epoch_behind then note = ',"epoch":' .. int(known_epoch) end
    local healed_from = version
    change_members({ { type = 'state.rolledBack',
        detail = '{"from":' .. int(healed_from) .. ',"to":' .. int(was) .. note .. '}' } })
    if was == 0 then redis.call('SADD', KEYS[5], group) end
    if ARGV[8] ~= '' and is_behind then redis.call('HSET', KEYS[4], 'seed', ARGV[8], 'unit', ARGV[9]) end
    redis.call('HSET', KEYS[3], 'holdUntil', int(hold_until), 'recoverUntil', int(recover_until))
    elect_not_before(now + longest_known)
    put('pKnown', '')
    silent_from(now + longest_known)
    for _, name in ipairs({ 'copyVersion', 'gaveUp', 'vouched' }) do put(name, '') end
    put('lostAt', now)
    if is_epoch_behind then
        -- Whom the data names was primary of an epoch that is over.
        if primary ~= '' then put('lastPrimary', primary) end
        put('epoch', math.max(epoch, known_epoch))
        put('primary', '')
        put('pSession', '')
        put('phase', 'recovering')
        put('vacantSince', now)
        put('target', '')
        put('forced', '')
        put('final', '')
        put('lastWhy', 'lost')
    end
end

-- MARK: the dead

if first[1] and tonumber(first[2]) <= now and now >= hold_until then
    local dead = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', int(now), 'WITHSCORES', 'LIMIT', 0, SWEEP)
    local events, texts, is_among, own = {}, {}, {}, record and { id } or {}
    for i = 1, #dead, 2 do is_among[dead[i]] = true end
    if verb == 'beats' then
        for i = 1, tonumber(ARGV[11]) do own[i] = ARGV[4 * i + 8] end
    end
    for i = 1, #own do -- one of more than 64: the caller is told, so it is taken out
        local ends = not is_among[own[i]] and tonumber(redis.call('ZSCORE', KEYS[1], own[i]) or '')
        if ends and ends <= now then
            is_among[own[i]] = true
            dead[#dead + 1] = own[i]
            dead[#dead + 1] = ends
        end
    end
    for i = 1, #dead, 2 do
        local text = redis.call('HGET', KEYS[2], dead[i]) or ''
        texts[#texts + 1] = text
        events[#events + 1] = { type = 'member.expired', member = cjson.encode(dead[i]),
            detail = '{"session":' .. cjson.encode(session_of(text)) .. ',"lateMs":' .. int(now - dead[i + 1]) .. '}' }
    end
    change_members(events)
    is_missed()
    for i = 1, #dead, 2 do
        local text = texts[(i + 1) / 2]
        if is_primary(dead[i], session_of(text)) then end_role('expired', true, now - dead[i + 1] + lease_of(text)) end
        take_out(dead[i], text)
        if dead[i] == id then record, is_mine = false, false end
    end
    look_at_leases()
    first = redis.call('ZRANGE', KEYS[1], 0, 1, 'WITHSCORES')
end

-- MARK: what a candidate claims

local BARRING = { refused = true, promotionFailed = true, unhealthy = true, stepDown = true }

local function hear(said)
    local kind, of, rest = string.match(said, '^(%a):(%d+):?(.*)$')
    if not kind or tonumber(of) ~= epoch then return end
    local who = { member = cjson.encode(id), epoch = int(epoch) }
    if is_primary(id, session) then
        if kind == 'g' then
            if rest == '' then rest = 'stepDown' end
            if BARRING[rest] then
                local since, at_position, why = string.match(redis.call('HGET', KEYS[8], id) or '', '^(%d+) %d+ (%d+ %S+) (.*)$')
                if since then
                    local barred = int(now + lease_of(record))
                    redis.call('HSET', KEYS[8], id, since .. ' ' .. barred .. ' ' .. at_position .. ' ' .. why)
                end
            end
            give_up(rest)
        elseif kind == 'r' and phase == 'elected' then
            who.type, who.detail = 'primary.ready', '{"promoteMs":' .. int(now - num('since')) .. '}'
            change({ who })
            put('phase', 'ready')
            put('since', now)
            put('readyMember', id)
            put('readyEpoch', epoch)
            -- What the one before it had is no measure for whom this one tells nothing.
            if not position_of(id) then put('lastPosition', '') end
        elseif kind == 'd' and phase == 'draining' and not tonumber(role.final) then
            local last, as_of = string.match(rest, '^(%d*):?(%d*)$')
            if (tonumber(as_of) or 0) >= num('drainVersion') then put('final', last ~= '' and last or '-') end
        end
    elseif phase == 'recovering' and kind ~= 'g' then
        who.type, who.detail = 'primary.confirmed', '{"session":' .. cjson.encode(session) .. '}'
        change({ who })
        put('primary', id)
        put('pSession', session)
        put('phase', kind == 'e' and 'elected' or 'ready')
        put('since', now)
        if role.forced == '1' and role.target ~= id then
            -- Ordered while nobody knew of a primary: it is to stop, like any other.
            put('phase', 'draining')
            put('drainUntil', tonumber(redis.call('ZSCORE', KEYS[1], id)))
        elseif role.forced == '1' then
            put('forced', '')
            put('target', '')
        end
        if kind ~= 'e' then
            put('readyMember', id)
            put('readyEpoch', epoch)
        end
    end
end

-- MARK: what operators order

local refusals = {}
local function refuse(code, member, detail)
    for _, text in ipairs({ code, member or '', detail or '' }) do refusals[#refusals + 1] = text end
end
local function refuse_because(c)
    for _, reason in ipairs(c.reasons) do refuse(reason[1], c.id, reason[2]) end
end

local function quoted(text) return text ~= '' and cjson.encode(text) or nil end

-- How many could take over.
local function standbys(ranking)
    local count = 0
    for _, c in ipairs(ranking) do
        if c.standby_reasons == 0 then count = count + 1 end
    end
    return count
end

local function start_handover(target, ends, is_forced, actor, why)
    local cause = is_forced and 'failover' or (actor == '' and 'failback' or 'switchover')
    change({ { type = is_forced and 'failover.started' or 'switchover.started', member = cjson.encode(target),
        epoch = int(epoch), previous = quoted(primary), reason = quoted(why), actor = quoted(actor),
        detail = '{"cause":"' .. cause .. '","timeoutMs":' .. int(math.max(0, ends - now)) .. '}' } })
    if primary ~= '' then
        put('phase', 'draining')
        put('since', now)
    end
    put('target', target)
    put('drainUntil', ends)
    put('drainVersion', version)
    put('forced', is_forced and '1' or '')
    put('final', '')
    put('orderBy', actor)
    put('orderWhy', why)
end

local function abort_handover(why, actor)
    change({ { type = 'switchover.aborted', member = cjson.encode(role.target), epoch = int(epoch), reason = quoted(why),
        actor = quoted(actor or '') } })
    if role.orderBy == '' then
        -- The primary stopped for nothing. It shall not do so again and again for one that never comes as far.
        local wait = math.min(FAILBACK_WAIT, math.max(1000, 2 * num('failbackWait')))
        wait = math.max(setting('failbackAfterMs', 300000), wait)
        put('failbackWait', wait)
        put('failbackAt', now + wait)
    end
    put('phase', 'ready')
    put('since', now)
    put('target', '')
    put('final', '')
end

-- A function costs whoever builds it, so only orders build these.
local order_epoch, order = 0, nil
if verb == 'order' then
    -- Who is in maintenance stays so over its restarts, and many never come back: where there are too many names, the oldest that
    -- is no member is dropped.
    local function make_room()
        local names = {}
        for name in string.gmatch(role.maintenance, '[^\n]+') do names[#names + 1] = name end
        if #names < MAINTAINED then return true end
        for i, name in ipairs(names) do
            if redis.call('HEXISTS', KEYS[2], name) == 0 then
                change({ { type = 'member.maintenance', member = cjson.encode(name), reason = '"gone"',
                    detail = '{"on":false}' } })
                table.remove(names, i)
                put('maintenance', table.concat(names, '\n') .. '\n')
                return true
            end
        end
        return false
    end

    local function carry_out(what, member, number, actor, why)
        if what == 'switchover' or what == 'failover' then
            if what == 'switchover' then is_other_server() end
            local ranking = rank()
            local c = member ~= '' and find(ranking, member)
            if member ~= '' and not c then refuse('notACandidate', member) end
            if phase == 'draining' then refuse('handingOver', role.target) end
            if what == 'failover' then
                if c and c.is_primary then refuse('primary', member) end
                for _, reason in ipairs(c and c.reasons or {}) do
                    if reason[1] == 'lease' or reason[1] == 'maintenance' then refuse(reason[1], member, reason[2]) end
                end
                if c and c.is_unknown and (primary ~= '' or silent_until() > now) then
                    refuse('unknownToPrimary', member, int(math.max(0, silent_until() - now)))
                end
                if #refusals == 0 then
                    local ends = primary ~= '' and tonumber(redis.call('ZSCORE', KEYS[1], primary) or 0) or now
                    start_handover(member, ends, true, actor, why)
                end
            else
                if primary == '' then refuse('noPrimary') elseif phase == 'elected' then refuse('notReady', primary) end
                -- The primary would stop, and then wait with everybody for whom nobody may elect yet.
                if now < num('electAfter') then refuse('waiting', '', int(num('electAfter') - now) .. ' ms') end
                if c then refuse_because(c) end
                if member == '' then
                    c = ranking[1]
                    if not c or #c.reasons > 0 then
                        refuse('noCandidate')
                        for _, other in ipairs(ranking) do
                            if not other.is_primary then refuse_because(other) end
                        end
                    end
                end
                local least = setting('minStandbys', 0)
                if setting('minStandbysAction', 'warn') == 'refuseSwitchover' and standbys(ranking) < least then
                    refuse('standbys', '', int(standbys(ranking)) .. ' of ' .. int(least))
                end
                if #refusals == 0 then start_handover(c.id, now + number, false, actor, why) end
            end
        elseif what == 'abort' then
            if role.forced == '1' then
                refuse('handingOver', role.target, 'a failover by hand cannot be taken back')
            elseif phase == 'draining' then
                abort_handover(why ~= '' and why or 'aborted', actor)
            end
        elseif what == 'pause' then
            change({ { type = 'group.paused', reason = quoted(why), actor = quoted(actor),
                detail = '{"forMs":' .. int(number) .. '}' } })
            put('pausedUntil', now + number)
        elseif what == 'resume' then
            if num('pausedUntil') > 0 then
                change({ { type = 'group.resumed', reason = quoted(why), actor = quoted(actor) } })
                put('pausedUntil', '')
            end
        elseif what == 'maintenance' then
            if not redis.call('HGET', KEYS[2], member) and number == 1 then return refuse('notAMember', member) end
            if member == primary and number == 1 then return refuse('primary', member) end
            if is_in_maintenance(member) ~= (number == 1) then
                if number == 1 and not make_room() then return refuse('maintenanceFull', member, int(MAINTAINED)) end
                change({ { type = 'member.maintenance', member = cjson.encode(member), reason = quoted(why),
                    actor = quoted(actor), detail = '{"on":' .. (number == 1 and 'true' or 'false') .. '}' } })
                if number == 1 then
                    put('maintenance', role.maintenance .. member .. '\n')
                else
                    local kept = {}
                    for line in string.gmatch(role.maintenance, '[^\n]+') do
                        if line ~= member then kept[#kept + 1] = line .. '\n' end
                    end
                    put('maintenance', table.concat(kept))
                end
            end
        elseif what == 'acknowledge' then
            if num('heldUntil') > 0 then
                change({ { type = 'group.released', reason = quoted(why), actor = quoted(actor) } })
            end
            put('heldUntil', '')
            put('failovers', '')
        elseif what == 'settings' then
            for i = 17, #ARGV - 1, 2 do
                if ARGV[i] == 'whenAway' and ARGV[i + 1] == 'hold' and server() == '' then return refuse('serverUnknown') end
            end
            local pairs_of, changed = {}, false
            for i = 17, #ARGV - 1, 2 do
                if redis.call('HGET', KEYS[4], ARGV[i]) ~= ARGV[i + 1] then changed = true end
                pairs_of[#pairs_of + 1] = cjson.encode(ARGV[i]) .. ':' .. cjson.encode(ARGV[i + 1])
            end
            if changed then
                change({ { type = 'group.settings', reason = quoted(why), actor = quoted(actor),
                    detail = '{' .. table.concat(pairs_of, ',') .. '}' } })
                for i = 17, #ARGV - 1, 2 do redis.call('HSET', KEYS[4], ARGV[i], ARGV[i + 1]) end
                settings_read = nil
            end
        elseif what == 'breaker' then
            if setting('breaker', 'automatic') ~= ARGV[18] then
                change({ { type = 'breaker.forced', reason = quoted(why), actor = quoted(actor),
                    detail = '{"state":' .. cjson.encode(ARGV[18]) .. '}' } })
                redis.call('HSET', KEYS[4], 'breaker', ARGV[18])
                settings_read = nil
            end
        elseif what == 'remove' then
            if role.removed ~= '' then return refuse('noGroup') end
            local count, wait = redis.call('HLEN', KEYS[2]), math.max(num('electAfter'), silent_until()) - now
            if count > 0 then return refuse('hasMembers', '', int(count)) end
            if wait > 0 then return refuse('waiting', '', int(wait) .. ' ms') end
            if number > 0 then
                local kept = num('pausedUntil') > now and 'paused' or num('heldUntil') > now and 'held'
                    or setting('breaker', 'automatic') ~= 'automatic' and 'breaker' or role.maintenance ~= '' and 'maintenance'
                    or role.target ~= '' and 'handingOver'
                if kept then put('emptySince', '') elseif role.emptySince == '' then put('emptySince', now) end
                if kept then return refuse('kept', '', kept) end
                wait = num('emptySince') + number - now
                if wait > 0 then return refuse('waiting', '', int(wait) .. ' ms') end
            end
            change({ { type = 'group.removed', reason = quoted(why), actor = quoted(actor) } })
            for _, name in ipairs({ 'pausedUntil', 'heldUntil', 'failovers', 'penalties', 'failures', 'maintenance', 'short', 'forced', 'target', 'emptySince' }) do
                put(name, '')
            end
            local floors = redis.call('HMGET', KEYS[7], 'versionFloor', 'epochFloor')
            redis.call('HSET', KEYS[7], 'versionFloor', int(math.max(version, tonumber(floors[1] or 0))),
                'epochFloor', int(math.max(epoch + num('skip'), tonumber(floors[2] or 0))))
            redis.call('DEL', KEYS[1], KEYS[2], KEYS[4], KEYS[8], KEYS[9], KEYS[10])
            settings_read = nil
            redis.call('SREM', KEYS[5], group)
            put('removed', '1')
            redis.call('PEXPIRE', KEYS[3], int(REMEMBERED))
        else
            refuse('unknown', '', what)
        end
    end

    -- An order that is repeated, because its answer was lost, has been carried out already and is not again: the last ones are
    -- remembered, each with the epoch under which it was.
    order = function(order_id, ...)
        if version == 0 then return refuse('noGroup') end
        local kept = { order_id .. '@' .. int(epoch) }
        for one, under in string.gmatch(role.orders, '(%S+)@(%d+)') do
            if one == order_id then
                order_epoch = tonumber(under)
                return
            end
            if #kept < ORDERS then kept[#kept + 1] = one .. '@' .. under end
        end
        order_epoch = epoch
        carry_out(...)
        if #refusals == 0 then put('orders', table.concat(kept, ' ')) end
    end
end

-- MARK: the verbs

local status = 'watching'
if verb == 'beat' then
    if is_mine then
        status = 'member'
        renew(tonumber(ARGV[13]))
        note_status()
        if known_mark == mark and acts() then
            put('pKnown', version)
            for _, name in ipairs({ 'silentSince', 'copyVersion', 'gaveUp', 'vouched' }) do put(name, '') end
        end
        if role.gaveUp ~= '' then know_what_became_of_it() end
        if claim then hear(claim) end
    elseif record then
        status = 'replaced'
    else
        status = is_lost(ARGV[14]) and 'unknown' or 'expired'
    end
elseif verb == 'beats' then
    local letters = {}
    for i = 1, tonumber(ARGV[11]) do
        id = ARGV[4 * i + 8]
        local its = redis.call('HGET', KEYS[2], id)
        if its and session_of(its) == ARGV[4 * i + 9] then
            renew(tonumber(ARGV[4 * i + 10]))
            letters[i] = 'm'
        else
            letters[i] = its and 'r' or is_lost(ARGV[4 * i + 11]) and 'u' or 'e'
        end
    end
    first = redis.call('ZRANGE', KEYS[1], 0, 1, 'WITHSCORES')
    status = 'beats:' .. table.concat(letters)
elseif verb == 'join' then
    local function health_of(text)
        local is_read, its = pcall(cjson.decode, text)
        return is_read and type(its) == 'table' and its.health or nil
    end

    -- A record that is about to be stored: whether it stands for election, and since when it is fit.
    local function stand(text, lease_ms)
        local is_candidate = string.find(text, '^{"session":"[^"]*","leaseMs":%d+,"candidate":true')
        local old = redis.call('HGET', KEYS[8], id)
        if is_candidate then
            local is_as_before = old and is_mine and health_of(record) == health_of(text)
            if not is_as_before then
                local kept = old and is_mine and string.match(old, '^%d+ (%d+ %d+)') or ('0 ' .. int(version))
                redis.call('HSET', KEYS[8], id, int(now) .. ' ' .. kept .. ' - ')
            end
            -- Redis may have lost a group that had a primary, or one that who came first did not know any more. Whoever held that role
            -- has given it up by then.
            if epoch == 0 and role.lostAt == '' then put('lostAt', now) end
            if role.lostAt ~= '' then
                elect_not_before(num('lostAt') + lease_ms)
                if role.silentSince ~= '' then silent_from(num('lostAt') + lease_ms) end
            end
        elseif old then
            if is_primary(id, session) then
                end_role('stepDown')
                silent_from(now) -- it has no beats any more that would tell what it has heard
            end
            redis.call('HDEL', KEYS[8], id)
        end
    end

    local function address_of(text)
        local is_read, its = pcall(cjson.decode, text)
        local address = is_read and type(its) == 'table' and its.address
        return type(address) == 'string' and address or ''
    end

    -- How long another keeps the id, unless it is heard of again; 0: it is to be had now.
    local function kept_for(text)
        local left = math.max(0, tonumber(redis.call('ZSCORE', KEYS[1], id) or 0) - now)
        local its, own = address_of(record), address_of(text)
        if its ~= '' and own ~= '' and its ~= own then return left end
        if not is_primary(id, session_of(record)) then return 0 end
        for _, one in ipairs(marks('failures')) do
            if one.id == id then return math.min(left, math.max(0, rests_until(one) - now)) end
        end
        return 0
    end

    local lease_ms, text, mode, was = tonumber(ARGV[13]), ARGV[14], ARGV[15], {}
    local may_take = not record or mode == 'first' or mode == 'over:' .. session_of(record)
    if record and not is_mine then
        for old in string.gmatch(redis.call('HGET', KEYS[3], 'was:' .. id) or '', '%S+') do
            may_take = may_take and old ~= session
            if #was < 3 then was[#was + 1] = old end
        end
    end
    local since = string.match(mode, '^stay:(.*)$')
    local kept_ms = record and not is_mine and may_take and kept_for(text) or 0
    if record and not is_mine and not may_take then
        status = 'replaced'
    elseif kept_ms > 0 then
        status = 'taken:' .. int(kept_ms) .. ':' .. address_of(record)
    elseif not record and not since and redis.call('HLEN', KEYS[2]) >= tonumber(ARGV[18]) then
        status = 'full'
    elseif not record and not since and redis.call('SCARD', KEYS[5]) >= tonumber(ARGV[19])
        and redis.call('SISMEMBER', KEYS[5], group) == 0 then
        status = 'tooManyGroups'
    elseif since and not record then
        status = since ~= '' and is_lost(since) and 'unknown' or 'expired'
    else
        status = 'member'
        put('emptySince', '')
        local was_empty = not first[1]
        if not is_mine then
            local event = { type = 'member.joined', member = cjson.encode(id), reason = '"new"', detail = text }
            if record then
                event.reason, event.previous = '"replaced"', cjson.encode(session_of(record))
            end
            change_members({ event })
            if record then is_missed() end
            if redis.call('HSETNX', KEYS[4], 'seed', ARGV[16]) == 1 then redis.call('HSET', KEYS[4], 'unit', ARGV[17]) end
            if record and is_primary(id, session_of(record)) then
                -- Its holder hears of it later than we.
                elect_not_before(tonumber(redis.call('ZSCORE', KEYS[1], id) or 0))
                end_role('replaced', true)
            end
            if record then
                table.insert(was, 1, session_of(record))
                redis.call('HSET', KEYS[3], 'was:' .. id, table.concat(was, ' '))
            end
        elseif record ~= text then
            change_members({ { type = 'member.updated', member = cjson.encode(id), detail = text } })
        end
        if record ~= text then
            stand(text, lease_ms)
            redis.call('HSET', KEYS[2], id, text)
            touched[id] = true
            local lease_before = record and lease_of(record)
            if lease_before ~= lease_ms then
                if lease_before then count_lease(lease_before, -1) end
                count_lease(lease_ms, 1)
                look_at_leases()
            end
        end
        -- With nobody in it the server was not looked at: it may have lost somebody who leads.
        if was_empty then is_other_server() end
        renew(lease_ms)
        record, is_mine = text, true
        note_status()
        if claim then hear(claim) end
    end
elseif verb == 'leave' then
    if record and (session == '' or is_mine) then
        local reason, actor = ARGV[13], ARGV[14]
        status = 'left'
        local event = { type = 'member.left', member = cjson.encode(id),
            detail = '{"session":' .. cjson.encode(session_of(record)) .. '}' }
        event.reason, event.actor = quoted(reason), quoted(actor)
        change_members({ event })
        if actor ~= '' or session == '' then is_missed() end
        if is_primary(id, session_of(record)) then
            if actor == '' and session ~= '' then
                end_role(reason ~= '' and reason or 'left')
            else
                elect_not_before(tonumber(redis.call('ZSCORE', KEYS[1], id) or 0))
                end_role('removed', true)
            end
        end
        if role.copyVersion == '' and string.match(role.gaveUp, '^%d+ (.*)$') == session_of(record) and actor == '' and session ~= '' then
            put('gaveUp', '')
            put('silentSince', '')
        end
        take_out(id, record)
        look_at_leases()
        first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
    else
        status = 'gone'
    end
elseif verb == 'order' then
    order(ARGV[16], ARGV[11], ARGV[12], tonumber(ARGV[13]), ARGV[14], ARGV[15])
    status = #refusals == 0 and 'ordered' or 'refused'
elseif verb == 'note' then
    append({ { type = ARGV[11], member = quoted(ARGV[12]), reason = quoted(ARGV[13]), actor = quoted(ARGV[14]),
        detail = ARGV[15] ~= '' and ARGV[15] or nil } })
    status = 'noted'
elseif verb ~= 'watch' then
    return redis.error_reply('ERR group.lua: unknown verb ' .. tostring(verb))
end

-- MARK: the decision

local ranking
local function ranked()
    ranking = ranking or rank()
    return ranking
end

local is_about_role = candidates > 0 or primary ~= '' or ended or check_at > 0 or verb == 'order' or redis.call('EXISTS', KEYS[8]) == 1
if is_about_role and version > 0 then
    local function elect(c)
        local why, actor, text = ended or role.lastWhy, '', ''
        if role.forced == '1' then why = 'failover' elseif why == '' then why = 'first' end
        if favoured ~= '' and favoured == c.id and (why == 'switchover' or why == 'failback' or why == 'failover') then
            actor, text = role.orderBy, role.orderWhy
        end
        local order_of, refused, lags = {}, {}, {}
        for i, other in ipairs(ranked()) do
            if i > 16 then break end
            local name, codes = cjson.encode(other.id), {}
            for j, reason in ipairs(other.reasons) do codes[j] = '"' .. reason[1] .. '"' end
            order_of[i] = name
            if #codes > 0 then refused[#refused + 1] = name .. ':[' .. table.concat(codes, ',') .. ']' end
            if other.lag >= 0 then lags[#lags + 1] = name .. ':' .. int(other.lag) end
        end
        local number = epoch + 1 + num('skip')
        local detail = '{"session":' .. cjson.encode(c.session) .. ',"detectMs":' .. int(detect_ms) .. ',"decideMs":'
            .. int(role.vacantSince ~= '' and now - num('vacantSince') or 0)
        if text ~= '' then detail = detail .. ',"why":' .. cjson.encode(text) end
        change({ { type = 'primary.elected', member = cjson.encode(c.id), epoch = int(number), previous = quoted(role.lastPrimary),
            reason = quoted(why), actor = quoted(actor), detail = detail .. ',"ranking":[' .. table.concat(order_of, ',') .. '],"refused":{'
                .. table.concat(refused, ',') .. '},"lag":{' .. table.concat(lags, ',') .. '}}' } })
        if AGAINST_ITS_WILL[why] and role.lastPrimary ~= c.id then
            local times = {}
            for time in string.gmatch(int(now) .. ' ' .. role.failovers, '%d+') do
                if #times < 16 then times[#times + 1] = time end
            end
            put('failovers', table.concat(times, ' '))
        end
        put('gaveUp', '')
        if role.vouched == '' then put('copyVersion', '') end
        put('skip', '')
        put('epoch', number)
        put('primary', c.id)
        put('pSession', c.session)
        put('lostAt', '')
        put('phase', 'elected')
        put('since', now)
        put('vacantSince', '')
        put('target', '')
        put('forced', '')
        put('failbackAt', '')
        put('failbackWait', '')
        ranking = nil
    end

    local function drop_failover()
        change({ { type = 'failover.aborted', member = cjson.encode(role.target), epoch = int(epoch), reason = '"target"' } })
        put('forced', '')
        put('target', '')
    end

    -- Whom to elect now; nil: nobody.
    local function choose()
        local is_forced = role.forced == '1'
        local wanted = is_forced and role.target or favoured
        local c = wanted ~= '' and find(ranked(), wanted)
        if is_forced and not c then
            -- It is gone. Whoever ordered it waits to be told, also where nobody else can be elected.
            drop_failover()
            is_forced = false
        end
        if candidates == 0 or now < num('electAfter') then return end
        if is_forced then
            -- Only whoever lives; what else speaks against it was accepted. If it does not, the order is over.
            if c then
                for _, reason in ipairs(c.reasons) do
                    if reason[1] == 'lease' or reason[1] == 'unknownToPrimary' then c = nil break end
                end
            end
            if c then
                favoured = c.id
                return c
            end
            drop_failover()
        end
        if (ended == 'switchover' or ended == 'failback') and c then return c end
        if num('pausedUntil') > now then return end
        local best, count = ranked()[1], 0
        if not best or #best.reasons > 0 then return end
        for _, other in ipairs(ranked()) do
            if #other.reasons == 0 then count = count + 1 end
        end
        -- Whom an order wanted that came to nothing, unless another lacks less: then data would be lost for a wish.
        if c and #c.reasons == 0 and c.bucket <= best.bucket then best = c end
        if count > 1 then
            if num('heldUntil') > now then return end
            local limit, window, recent = setting('brakeCount', 3), setting('brakeWindowMs', 600000), 0
            for time in string.gmatch(role.failovers, '%d+') do
                if tonumber(time) > now - window then recent = recent + 1 end
            end
            if limit > 0 and recent >= limit and AGAINST_ITS_WILL[ended or role.lastWhy] and role.lastPrimary ~= best.id then
                change({ { type = 'group.held', reason = '"flapping"',
                    detail = '{"failovers":' .. int(recent) .. ',"forMs":' .. int(window) .. '}' } })
                put('heldUntil', now + window)
                put('failovers', '')
                return
            end
        end
        return best
    end

    -- Whether the role shall go back to whom zone and priority prefer, and when that may be.
    local function fall_back(wake)
        if setting('failback', 'never') ~= 'automatic' or phase ~= 'ready' then return end
        if num('pausedUntil') > now or num('heldUntil') > now then return end
        local after, own, best = setting('failbackAfterMs', 300000), find(ranked(), primary), nil
        if not own then return end
        local function is_better(one, than)
            if one.is_elsewhere ~= than.is_elsewhere then return one.is_elsewhere < than.is_elsewhere end
            return one.priority > than.priority
        end
        for _, c in ipairs(ranked()) do
            if #c.reasons == 0 and is_better(c, own) and (not best or is_better(c, best)) then best = c end
        end
        if not best then return end
        local due = math.max(num('failbackAt'), num('since') + after, best.since + after, num('electAfter'))
        if now >= due and is_other_server() then due, ranking = num('electAfter'), nil end
        if now < due then return wake(due) end
        start_handover(best.id, now + setting('drainMs', 30000), false, '', '')
    end

    -- Whether the target has all that the primary had when it stopped. Who stops and does not say how far it came is only
    -- believed where nobody tells positions: else the target might lack anything.
    local function has_come(c)
        if tonumber(role.final) then return c.position and c.position >= tonumber(role.final) end
        for _, other in ipairs(ranked()) do
            if other.position then return false end
        end
        return true
    end

    local function decide()
        candidates = redis.call('HLEN', KEYS[8])
        put('candidates', candidates > 0 and candidates or '')
        local next_at = nil
        local function wake(moment)
            if moment > now and (not next_at or moment < next_at) then next_at = moment end
        end
        if num('pausedUntil') > 0 and now >= num('pausedUntil') then
            change({ { type = 'group.resumed', reason = '"expired"' } })
            put('pausedUntil', '')
        end
        if num('heldUntil') > 0 and now >= num('heldUntil') then
            change({ { type = 'group.released', reason = '"expired"' } })
            put('heldUntil', '')
        end
        if phase == 'draining' then
            local c = find(ranked(), role.target)
            if role.forced == '1' then
                if now >= num('drainUntil') then end_role('failover', true) end
            elseif not c or c.standby_reasons > 0 then
                abort_handover('target')
            elseif role.final ~= '' and has_come(c) then
                -- Its role does not end before another may be elected.
                is_other_server()
                if now >= num('electAfter') then
                    end_role(role.orderBy == '' and 'failback' or 'switchover')
                elseif now >= num('drainUntil') then
                    abort_handover('timeout')
                end
            elseif now >= num('drainUntil') then
                abort_handover(role.final == '-' and 'position' or 'timeout')
            end
            ranking = nil
        end
        if primary == '' then
            local c = choose()
            -- The look at the server may lengthen leases and forbid elections, and then there is another time for this.
            if c and is_other_server() then c, ranking = nil, nil end
            if c then
                elect(c)
            elseif ended then
                local actor = ended == 'failover' and role.orderBy or ''
                change({ { type = 'primary.lost', member = quoted(role.lastPrimary), epoch = int(epoch), reason = quoted(ended),
                    actor = quoted(actor) } })
            end
        end
        fall_back(wake)
        local least, is_short = setting('minStandbys', 0), false
        if primary ~= '' and least > 0 then is_short = standbys(ranked()) < least end
        if is_short ~= (role.short == '1') and (primary ~= '' or least == 0) then
            change({ { type = is_short and 'standby.shortfall' or 'standby.restored',
                detail = '{"standbys":' .. int(primary ~= '' and standbys(ranked()) or 0) .. ',"least":' .. int(least) .. '}' } })
            put('short', is_short and '1' or '')
        end
        wake(num('pausedUntil'))
        wake(num('heldUntil'))
        if phase == 'draining' then wake(num('drainUntil')) end
        if phase == 'draining' or (primary == '' and candidates > 0) then wake(num('electAfter')) end
        if primary == '' and candidates > 0 then
            wake(silent_until())
            for _, c in ipairs(ranked()) do wake(c.barred) end
        end
        put('checkAt', next_at or '')
    end

    decide()
end

-- MARK: the answer

-- Which version each member of a large group last changed in. What somebody else changed, a version of this script that keeps
-- no such list or one with fewer members, is not in it: then it begins anew, with places of their own for all, before any version.
local function note_changes()
    if not member_version then return end
    size = redis.call('HLEN', KEYS[2])
    if size <= WHOLE then
        if role.changesVersion .. role.changesFloor ~= '' then redis.call('DEL', KEYS[9], KEYS[10]) end
        put('changesVersion', '')
        put('changesFloor', '')
        return
    end
    if role.changesVersion ~= members_before or members_before == '' then
        redis.call('DEL', KEYS[9], KEYS[10])
        local ids = redis.call('ZRANGE', KEYS[1], 0, -1)
        for i, member in ipairs(ids) do redis.call('ZADD', KEYS[9], int(i - #ids), member) end
        if #ids < size then -- somebody took leases away by hand
            for _, member in ipairs(redis.call('HKEYS', KEYS[2])) do redis.call('ZADD', KEYS[9], 'NX', member_version, member) end
        end
        put('changesFloor', version)
    else
        for member, is_there in pairs(touched) do
            redis.call('ZADD', KEYS[is_there and 9 or 10], member_version, member)
            redis.call('ZREM', KEYS[is_there and 10 or 9], member)
        end
        local over = redis.call('ZCARD', KEYS[10]) - GONE
        if over > 0 then
            local forgotten = redis.call('ZPOPMIN', KEYS[10], over)
            put('changesFloor', forgotten[#forgotten])
        end
    end
    put('changesVersion', member_version)
end

note_changes()
write_role()
local answer = view(status)
if asks and (known_mark ~= mark or wants_leases or verb == 'order') then
    tell(answer)
    if (wants_leases and (answer[10][1] ~= 'page' or answer[10][3] == '')) or verb == 'order' then
        local list = {}
        for i, c in ipairs(ranked()) do
            local reasons = {}
            for _, reason in ipairs(c.reasons) do
                reasons[#reasons + 1] = reason[1]
                reasons[#reasons + 1] = reason[2]
            end
            list[i] = { c.id, c.lag, c.position and int(c.position) or '-', math.max(0, now - c.since), c.penalty,
                c.is_maintained and 1 or 0, reasons }
        end
        local function left(name) return math.max(0, num(name) - now) end
        answer[16] = { left('pausedUntil'), left('heldUntil'), left('electAfter'),
            phase == 'draining' and left('drainUntil') or 0, refusals, list, order_epoch }
    end
end
return answer

end
return act()
