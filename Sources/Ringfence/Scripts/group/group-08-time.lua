-- SPDX-License-Identifier: Apache-2.0
-- Time, and the server that tells it.
--
-- Group time. Leases end in the group's own time, ms that follow the server's clock with two corrections kept in
-- `offset`.
--  * It never goes back: if the server's clock does, or another server with a slower clock takes over, the difference
--    is added and time goes on.
--  * It does not run while nobody can reach the group. All members and watchers call once a pace, a fifth of the
--    shortest lease and at most 1 s; if no call came for two and a half paces, then Redis was away, or all the network,
--    or its clock was set forward: no member is to blame. Time stands still over such a gap, and nobody is taken out
--    for 3 s after, or the shortest lease if that is more, and never longer than the longest (`graceUntil`): that is
--    the time for everybody to come back. (Not the longest lease: one member with a lease of an hour would keep all
--    other dead members in the group.) A death is never taken for a gap while others live or watch, for they go on
--    calling. Where every call comes after a gap (one watcher with a bad line, one that looks in now and then), the
--    dead would never be found: so a grace comes only a grace's length after the last, and from the third gap in a row
--    (`gaps`) on time goes on by one pace with each call. No clock is set forward that often.
-- So a lease never ends early, except by one thing that no script can see: a clock set forward by less than two and a
-- half paces. A live member has more than that left; one that is cut off may be taken out half a lease early.
--
-- Another server. One that was promoted, or restarted, may have lost the last beats it or its predecessor had answered,
-- in less time than a gap takes: a member that cannot reach it yet would be taken out before its own clock tells it to
-- stop. So before anybody is taken out, and every 10 s, the server is compared with the group's (`run`); if it is
-- another, every lease is lengthened once by four paces. The beats of two and a half paces can be lost, and the first
-- of a member's beats that is missing then comes a pace after the last that was kept. (Not a grace: that would end
-- before longer leases do.)

if now < last then
    offset = offset + last - now
    now = last
    redis.call('HSET', KEYS[3], 'offset', int(offset))
elseif is_gap then
    local gap = now - last
    gaps = gaps + 1
    now = gaps < 3 and last or last + pace
    offset = now - at
    local given, length = 0, math.min(longest, math.max(shortest, GRACE))
    if now - grace_until >= length then
        given = length
        grace_until = now + length
    end
    append({ { type = 'coordinator.gap', reason = '"silence"',
        detail = '{"gapMs":' .. int(gap) .. ',"graceMs":' .. int(given) .. '}' } })
    redis.call('HSET', KEYS[3], 'offset', int(offset), 'graceUntil', int(grace_until), 'gaps', int(gaps))
end

-- The name of the server, unless it may not be asked: another caller may. (A value of more than 64 bytes makes Redis
-- keep the hash as a table, in which a field is found at once, and not as a list: a beat is 8 % quicker.)
local LONG = string.rep('-', 65)
local function note_server()
    redis.call('HSET', KEYS[3], 'runAt', int(now))
    if server() == '' then return end
    redis.call('HSET', KEYS[3], 'run', server(), 'long', LONG)
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
        local limit = tonumber(redis.call('HGET', KEYS[4], 'failsafeLimitMs') or '') or 600000
        local is_recent = away >= 0 and away < limit
        put('copyVersion', role.silentSince == '' and primary ~= '' and is_recent and role.runVersion or '')
        put('gaveUp', '')
        put('vouched', '')
        -- A version: what was claimed to the server before says nothing about this one.
        change({ { type = 'coordinator.gap', reason = '"server"',
            detail = '{"gapMs":0,"graceMs":' .. int(grace) .. '}' } })
        for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
            redis.call('ZINCRBY', KEYS[1], int(grace), member)
        end
        first = redis.call('ZRANGE', KEYS[1], 0, 1, 'WITHSCORES')
        put('skip', SKIP)
        -- The primary may have known other members than this server's copy says.
        put('pKnown', '')
        silent_from(now + longest + grace)
        put('lostAt', now)
        elect_not_before(now + longest + grace)
        if phase == 'handingOver' then put('handoverUntil', num('handoverUntil') + grace) end
    end
    note_server()
    return is_other
end

-- Else whenever it may be another one, also before its primary's last word on a role is taken.
local is_last_word = is_mine and primary == id and primary_session == session
    and string.match(claim or '', '^g:(%d+)') == int(epoch)
local knows_lost = known_mark ~= '' and known_mark ~= mark and is_lost(known_mark)
if first[1] and (now - run_at >= SERVER_PACE or (tonumber(first[2]) <= now and now >= grace_until)
    or is_gap or away < 0 or is_last_word or knows_lost) then
    is_other_server()
end
if knows_lost then put('copyVersion', '') end
