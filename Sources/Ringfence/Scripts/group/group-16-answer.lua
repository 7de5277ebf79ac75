-- SPDX-License-Identifier: Apache-2.0
-- The end of the call.

-- Which version each member of a large group last changed in. What was changed by a version of this script that keeps
-- no such list, or while the group was small, is not in it: then the list begins anew, with a place of its own for each
-- member, before any version.
local function note_changes()
    if not member_version then return end
    size = redis.call('HLEN', KEYS[2])
    if size <= WHOLE then
        if role.changesVersion .. role.changesFloor ~= '' then
            redis.call('DEL', KEYS[9], KEYS[10])
            redis.call('HDEL', KEYS[3], 'changesVersion', 'changesFloor')
            role.changesFloor = ''
        end
        return
    end
    if role.changesVersion ~= members_before or members_before == '' then
        redis.call('DEL', KEYS[9], KEYS[10])
        local ids = redis.call('ZRANGE', KEYS[1], 0, -1)
        for i, member in ipairs(ids) do redis.call('ZADD', KEYS[9], int(i - #ids), member) end
        if #ids < size then -- somebody took leases away by hand
            for _, member in ipairs(redis.call('HKEYS', KEYS[2])) do
                redis.call('ZADD', KEYS[9], 'NX', member_version, member)
            end
        end
        role.changesFloor = int(version)
    else
        for member, is_there in pairs(touched) do
            redis.call('ZADD', KEYS[is_there and 9 or 10], member_version, member)
            redis.call('ZREM', KEYS[is_there and 10 or 9], member)
        end
        local over = redis.call('ZCARD', KEYS[10]) - GONE
        if over > 0 then
            local forgotten = redis.call('ZPOPMIN', KEYS[10], over)
            role.changesFloor = forgotten[#forgotten]
        end
    end
    -- A step of its own, after what was decided: if this fails, the list lacks a change, and begins anew.
    redis.call('HSET', KEYS[3], 'changesVersion', member_version, 'changesFloor', role.changesFloor)
end

write_role()
note_changes()
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
        answer[16] = { left('pausedUntil'), left('brakedUntil'), left('electAfter'),
            phase == 'handingOver' and left('handoverUntil') or 0, refusals, list, order_epoch }
    end
end
return answer

end
return act()
