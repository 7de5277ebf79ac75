-- SPDX-License-Identifier: Apache-2.0
-- The dead.

if first[1] and tonumber(first[2]) <= now and now >= grace_until then
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
