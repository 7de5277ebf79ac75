-- SPDX-License-Identifier: Apache-2.0
-- Who is primary. The rules stand where the role begins (group-04-role.lua).

local ranking
local function ranked()
    ranking = ranking or rank()
    return ranking
end

local is_about_role = candidates > 0 or primary ~= '' or ended or check_at > 0 or verb == 'order'
    or redis.call('EXISTS', KEYS[8]) == 1
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
        detail = detail .. ',"ranking":[' .. table.concat(order_of, ',')
            .. '],"refused":{' .. table.concat(refused, ',') .. '},"lag":{' .. table.concat(lags, ',') .. '}}'
        change({ { type = 'primary.elected', member = cjson.encode(c.id), epoch = int(number),
            previous = quoted(role.lastPrimary), reason = quoted(why), actor = quoted(actor), detail = detail } })
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
        change({ { type = 'failover.aborted', member = cjson.encode(role.target), epoch = int(epoch),
            reason = '"target"' } })
        put('forced', '')
        put('target', '')
    end

    -- The member to elect now; nil: nobody.
    local function choose()
        local is_forced = role.forced == '1'
        local wanted = is_forced and role.target or favoured
        local c = wanted ~= '' and find(ranked(), wanted)
        if is_forced and not c then
            -- The target is gone. The operator waits to be told so, even where nobody else can be elected.
            drop_failover()
            is_forced = false
        end
        if candidates == 0 or now < num('electAfter') then return end
        if is_forced then
            -- The target must live; all other reasons against it were accepted. If it does not live, the order is over.
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
        -- The target of a handover that failed, unless another lacks less: then data would be lost for a wish.
        if c and #c.reasons == 0 and c.bucket <= best.bucket then best = c end
        if count > 1 then
            if num('brakedUntil') > now then return end
            local limit, window, recent = setting('brakeCount', 3), setting('brakeWindowMs', 600000), 0
            for time in string.gmatch(role.failovers, '%d+') do
                if tonumber(time) > now - window then recent = recent + 1 end
            end
            if limit > 0 and recent >= limit and AGAINST_ITS_WILL[ended or role.lastWhy]
                and role.lastPrimary ~= best.id then
                change({ { type = 'group.braked', reason = '"flapping"',
                    detail = '{"failovers":' .. int(recent) .. ',"forMs":' .. int(window) .. '}' } })
                put('brakedUntil', now + window)
                put('failovers', '')
                return
            end
        end
        return best
    end

    -- Whether the role should go back to the member that zone and priority prefer, and when.
    local function fall_back(wake)
        if setting('failback', 'never') ~= 'automatic' or phase ~= 'ready' then return end
        if num('pausedUntil') > now or num('brakedUntil') > now then return end
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
        start_handover(best.id, now + setting('handoverTimeoutMs', 30000), false, '', '')
    end

    -- Whether the target has all that the primary had when it stopped. A primary that stops without saying how far it
    -- came is only believed where nobody tells positions: else the target might lack anything.
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
        if num('brakedUntil') > 0 and now >= num('brakedUntil') then
            change({ { type = 'group.unbraked', reason = '"expired"' } })
            put('brakedUntil', '')
        end
        if phase == 'handingOver' then
            local c = find(ranked(), role.target)
            if role.forced == '1' then
                if now >= num('handoverUntil') then end_role('failover', true) end
            elseif not c or c.standby_reasons > 0 then
                abort_handover('target')
            elseif role.final ~= '' and has_come(c) then
                -- Its role does not end before another may be elected.
                is_other_server()
                if now >= num('electAfter') then
                    end_role(role.orderBy == '' and 'failback' or 'switchover')
                elseif now >= num('handoverUntil') then
                    abort_handover('timeout')
                end
            elseif now >= num('handoverUntil') then
                abort_handover(role.final == '-' and 'position' or 'timeout')
            end
            ranking = nil
        end
        if primary == '' then
            local c = choose()
            -- Comparing the server may lengthen leases and forbid elections, and that changes when this is due.
            if c and is_other_server() then c, ranking = nil, nil end
            if c then
                elect(c)
            elseif ended then
                local actor = ended == 'failover' and role.orderBy or ''
                change({ { type = 'primary.lost', member = quoted(role.lastPrimary), epoch = int(epoch),
                    reason = quoted(ended), actor = quoted(actor) } })
            end
        end
        fall_back(wake)
        local least, is_short = setting('minStandbys', 0), false
        if primary ~= '' and least > 0 then is_short = standbys(ranked()) < least end
        if is_short ~= (role.short == '1') and (primary ~= '' or least == 0) then
            change({ { type = is_short and 'standby.shortfall' or 'standby.restored',
                detail = '{"standbys":' .. int(primary ~= '' and standbys(ranked()) or 0)
                    .. ',"least":' .. int(least) .. '}' } })
            put('short', is_short and '1' or '')
        end
        wake(num('pausedUntil'))
        wake(num('brakedUntil'))
        if phase == 'handingOver' then wake(num('handoverUntil')) end
        if phase == 'handingOver' or (primary == '' and candidates > 0) then wake(num('electAfter')) end
        if primary == '' and candidates > 0 then
            wake(silent_until())
            for _, c in ipairs(ranked()) do wake(c.barred) end
        end
        put('checkAt', next_at or '')
    end

    decide()
end
