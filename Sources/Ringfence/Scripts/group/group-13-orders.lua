-- SPDX-License-Identifier: Apache-2.0
-- Orders of operators.
--
-- Removal. A group that nobody is in may be removed: its name, its ring and its settings go. Its state stays for 30
-- days, and a group that is joined meanwhile goes on from there. Removal is refused as long as some member may act as
-- primary and nobody knows when it stops. Versions and epochs never go back for a name, for somebody may still look at
-- it, or guard a resource by its last epoch. When the state is gone nobody knows any more which names there were. So
-- the highest version and epoch of all groups ever removed are kept with the log (`versionFloor`, `epochFloor`), and a
-- new group begins above them, whatever its name. An order may say how long the group must have been empty, with
-- nothing that must be kept (a pause, a brake, a maintenance, a forced breaker, an order that is under way). That time
-- begins with the first such order (`emptySince`), is measured in group time, so by the server's clock, and begins anew
-- after each join: the caller only asks.
--
-- The breaker. Each process decides for itself, by what it sees, whether members are called at all. But an operator may
-- decide it for all of them: 'open', nobody is called; 'closed', calls are made, however many fail; 'automatic', each
-- process decides again. The order is stored with the settings, so it comes with every answer that has them, and makes
-- a version, so that all look at once.

-- Building a function costs time in every call, so only orders build these.
local order_epoch, order = 0, nil
if verb == 'order' then
    -- A member in maintenance stays so over its restarts, and many never come back: where there are too many names, the
    -- oldest that is no member is dropped.
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
            if phase == 'handingOver' then refuse('handingOver', role.target) end
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
                -- The primary would stop, and everybody would wait for a target that may not be elected yet.
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
            elseif phase == 'handingOver' then
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
            if num('brakedUntil') > 0 then
                change({ { type = 'group.unbraked', reason = quoted(why), actor = quoted(actor) } })
            end
            put('brakedUntil', '')
            put('failovers', '')
        elseif what == 'settings' then
            for i = 17, #ARGV - 1, 2 do
                if ARGV[i] == 'onCoordinatorLoss' and ARGV[i + 1] == 'failsafe' and server() == '' then
                    return refuse('serverUnknown')
                end
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
                local kept = num('pausedUntil') > now and 'paused' or num('brakedUntil') > now and 'braked'
                    or setting('breaker', 'automatic') ~= 'automatic' and 'breaker'
                    or role.maintenance ~= '' and 'maintenance'
                    or role.target ~= '' and 'handingOver'
                if kept then put('emptySince', '') elseif role.emptySince == '' then put('emptySince', now) end
                if kept then return refuse('kept', '', kept) end
                wait = num('emptySince') + number - now
                if wait > 0 then return refuse('waiting', '', int(wait) .. ' ms') end
            end
            change({ { type = 'group.removed', reason = quoted(why), actor = quoted(actor) } })
            for _, name in ipairs({ 'pausedUntil', 'brakedUntil', 'failovers', 'penalties', 'failures', 'maintenance',
                'short', 'forced', 'target', 'emptySince' }) do
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

    -- An order that is repeated, because its answer was lost, is not carried out again: the last ones are remembered,
    -- each with the epoch under which it was carried out.
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
