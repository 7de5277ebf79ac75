-- SPDX-License-Identifier: Apache-2.0
-- The verbs of members.
--
-- Sessions. A member id belongs to the session that joined last: a process that comes up takes the id from the one that
-- died. But a join whose answer was lost is repeated, and by then somebody may have joined after it, who must not lose
-- the id to it. So a repeated call says which session it meant to replace ('over:'); and, for callers that just repeat,
-- sessions that were replaced are remembered (the last four, as long as the member is there) and do not win the id
-- back. A member that joins 'again', because it was lost or has expired, takes the id from nobody. A caller that renews
-- for a member elsewhere, knowing nothing of it but its session, says 'stay': the member is told whether it was lost or
-- has expired, and decides.
--
-- Two machines with one id would take it from each other for ever, and the role with it. So a member that lives, by its
-- lease, is not replaced by one at another address: a restarted process has the same address as before, and one that
-- moved waits for the lease. Where addresses tell nothing, a primary that failed again and again of late is replaced
-- after a rest only (below).

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
        local prefix_of_it = '{"session":"' .. ARGV[4 * i + 9] .. '",'
        if its and string.sub(its, 1, #prefix_of_it) == prefix_of_it then
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
            -- Redis may have lost a group that had a primary, and the first to join may not know of it. That primary
            -- has given its role up by then.
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

    -- How long another keeps the id, unless it is heard of again; 0: the id is free now.
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
            if redis.call('HSETNX', KEYS[4], 'seed', ARGV[16]) == 1 then
                redis.call('HSET', KEYS[4], 'pointsPerWeight', ARGV[17])
            end
            if record and is_primary(id, session_of(record)) then
                -- The holder hears of it later than this call.
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
        -- While the group was empty the server was not compared: it may have lost a primary that still acts.
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
        if role.copyVersion == '' and string.match(role.gaveUp, '^%d+ (.*)$') == session_of(record)
            and actor == '' and session ~= '' then
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
