-- SPDX-License-Identifier: Apache-2.0
-- Handing the role over.

local refusals = {}
local function refuse(code, member, detail)
    for _, text in ipairs({ code, member or '', detail or '' }) do refusals[#refusals + 1] = text end
end
local function refuse_because(c)
    for _, reason in ipairs(c.reasons) do refuse(reason[1], c.id, reason[2]) end
end

local function quoted(text) return text ~= '' and cjson.encode(text) or nil end

-- How many members could take over.
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
        put('phase', 'handingOver')
        put('since', now)
    end
    put('target', target)
    put('handoverUntil', ends)
    put('handoverVersion', version)
    put('forced', is_forced and '1' or '')
    put('final', '')
    put('orderBy', actor)
    put('orderWhy', why)
end

local function abort_handover(why, actor)
    change({ { type = 'switchover.aborted', member = cjson.encode(role.target), epoch = int(epoch),
        reason = quoted(why), actor = quoted(actor or '') } })
    if role.orderBy == '' then
        -- The primary stopped for nothing. It must not do so again and again for a target that never catches up.
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
