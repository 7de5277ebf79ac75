-- SPDX-License-Identifier: Apache-2.0
-- What a candidate claims.

local BARRING = { refused = true, promotionFailed = true, unhealthy = true, stepDown = true }

local function hear(said)
    local kind, of, rest = string.match(said, '^(%a):(%d+):?(.*)$')
    if not kind or tonumber(of) ~= epoch then return end
    local who = { member = cjson.encode(id), epoch = int(epoch) }
    if is_primary(id, session) then
        if kind == 'g' then
            if rest == '' then rest = 'stepDown' end
            if BARRING[rest] then
                local text = redis.call('HGET', KEYS[8], id) or ''
                local since, at_position, why = string.match(text, '^(%d+) %d+ (%d+ %S+) (.*)$')
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
            -- The position of the primary before it is no measure where this one tells none.
            if not position_of(id) then put('lastPosition', '') end
        elseif kind == 'd' and phase == 'handingOver' and not tonumber(role.final) then
            local last, as_of = string.match(rest, '^(%d*):?(%d*)$')
            if (tonumber(as_of) or 0) >= num('handoverVersion') then put('final', last ~= '' and last or '-') end
        end
    elseif phase == 'recovering' and kind ~= 'g' then
        who.type, who.detail = 'primary.confirmed', '{"session":' .. cjson.encode(session) .. '}'
        change({ who })
        put('primary', id)
        put('pSession', session)
        put('phase', kind == 'e' and 'elected' or 'ready')
        put('since', now)
        if role.forced == '1' and role.target ~= id then
            -- The order was given while nobody knew of a primary: it must stop, like any other.
            put('phase', 'handingOver')
            put('handoverUntil', tonumber(redis.call('ZSCORE', KEYS[1], id)))
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
