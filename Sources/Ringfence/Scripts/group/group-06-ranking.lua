-- SPDX-License-Identifier: Apache-2.0
-- Who may lead, and in which order.
--
-- Who may lead, and in which order, is in `rank`. A candidate that gave an epoch up because it could not lead is barred
-- for one lease. One that lost the role against its will gets a penalty, which halves in 5 min; with 3 it ranks behind
-- those with less. After `brakeCount` automatic failovers in `brakeWindowMs` the group is braked, unless one candidate
-- alone can lead. And a primary that failed by itself (`FAILED`) rests: after the second time in a row 4 s, then twice
-- as long each time, up to a minute. That is kept by id, not with the member, for a job that ends leaves the group and
-- comes back.

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
        local text = who .. '\t' .. milli .. '\t' .. since .. '\n'
        list[#list + 1] = { id = who, left = left, since = tonumber(since), text = text }
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

-- Until when a member that failed by itself rests.
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

-- Whether a primary that cannot reach Redis may go on, by the promises of the candidates it knew; and how long one that
-- Redis does not hear of may do so, if it is not known to have stopped.
local function may_outlive_lease() return setting('onCoordinatorLoss', 'demote') == 'failsafe' end
-- All members that the copy knows are back, and its primary says that its role is over. (Leases that were not renewed
-- since are over by now, so every member that is here has called.)
local function are_all_back()
    local copy = tonumber(role.copyVersion)
    return copy and role.vouched ~= '' and num('missed') <= copy and now >= num('electAfter')
        and first[1] and tonumber(first[2]) > now
end
local function silent_until()
    if primary ~= '' or role.silentSince == '' or not may_outlive_lease() or are_all_back() then return 0 end
    return num('silentSince') + setting('failsafeLimitMs', 600000)
end

-- What candidates are measured by: how far the primary has come, or had.
local function reference()
    if phase == 'handingOver' and tonumber(role.final) then return tonumber(role.final) end
    if primary ~= '' then return position_of(primary) end
    return tonumber(role.lastPosition)
end

-- All candidates, those that may lead first, each part in the order in which they would be elected; with all reasons
-- why one may not. Data first: the one that lacks least, then the one that failed least, then the one that had the role
-- and did not fail, then by zone and priority.
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
        c.is_unknown = may_outlive_lease() and tonumber(joined) > num('pKnown')
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
