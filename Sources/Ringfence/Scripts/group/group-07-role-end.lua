-- SPDX-License-Identifier: Apache-2.0
-- The end of a role.

-- Nobody wanted it. (An operator who takes a member out did.)
local AGAINST_ITS_WILL = { expired = true, replaced = true, suspended = true,
    promotionFailed = true, unhealthy = true, exited = true }
-- It failed by itself, or ended its work so soon that there is no use in giving the role back at once.
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
    if AGAINST_ITS_WILL[why] and now >= grace_until then add_mark('penalties', primary) end
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

-- It has not heard that it was heard before it knows the next version, which this end makes.
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
    if its_session ~= session or known_version <= tonumber(before) then return end
    if string.match(known_mark, '^(%w+):') ~= generation then return end
    put('gaveUp', '')
    put(role.copyVersion ~= '' and 'vouched' or 'silentSince', role.copyVersion ~= '' and '1' or '')
end

local function is_primary(member, its_session)
    return primary ~= '' and primary == member and primary_session == its_session
end
