-- SPDX-License-Identifier: Apache-2.0
-- Changes of the group.
--
-- One change set, one version. Members that have died are taken out together, at most 64 a call: their events have one
-- version and say how many they are (`of`). Each death is found by exactly one call, for the call that finds it takes
-- the member out.

local function lease_of(text) return tonumber(string.match(text or '', '^{"session":"[^"]*","leaseMs":(%d+)')) or 0 end
local function session_of(text) return string.match(text or '', '^{"session":"([^"]*)"') or '' end

-- How many members have which lease, so that the shortest and the longest are known without a look at all members; and
-- without one at all leases, unless the shortest or the longest is gone.
local are_leases_known = shortest > 0
local function count_lease(ms, by)
    if redis.call('HINCRBY', KEYS[3], 'lease:' .. int(ms), by) <= 0 then
        redis.call('HDEL', KEYS[3], 'lease:' .. int(ms))
        if ms == shortest or ms == longest then are_leases_known = false end
    elseif shortest == 0 then
        are_leases_known = false
    elseif ms < shortest or ms > longest then
        shortest, longest = math.min(shortest, ms), math.max(longest, ms)
        redis.call('HSET', KEYS[3], 'shortest', int(shortest), 'longest', int(longest))
    end
end

local function look_at_leases()
    if are_leases_known then return end
    are_leases_known = true
    shortest, longest = 0, 0
    local fields = redis.call('HKEYS', KEYS[3])
    for _, field in ipairs(fields) do
        local ms = tonumber(string.match(field, '^lease:(%d+)$'))
        if ms then
            if shortest == 0 or ms < shortest then shortest = ms end
            if ms > longest then longest = ms end
        end
    end
    redis.call('HSET', KEYS[3], 'shortest', int(shortest), 'longest', int(longest))
end

-- A new group goes on from all that were removed.
local function begin()
    local floors = redis.call('HMGET', KEYS[7], 'versionFloor', 'epochFloor')
    version = tonumber(floors[1] or 0)
    local floor = tonumber(floors[2] or 0)
    if floor > epoch then
        put('epoch', floor)
        put('lostAt', now)
    end
end

-- The version of the last change of members as it was before this call, and as it is.
local members_before, member_version

-- A new version: one change set.
local function change(events, is_of_members)
    local is_new = version == 0
    if is_new then begin() end
    version = version + 1
    for _, event in ipairs(events) do
        event.version = int(version)
        if #events > 1 then event.of = int(#events) end
    end
    append(events)
    mark = generation .. ':' .. int(sequence)
    -- At once: after a call that fails half way, what is kept of changes must be seen to lack one.
    local set = { 'version', int(version), 'mark', mark, 'now', int(now) }
    if is_of_members then
        members_before = members_before or role.memberVersion
        member_version = int(version)
        role.memberVersion = member_version
        set[7], set[8] = 'memberVersion', member_version
    end
    redis.call('HSET', KEYS[3], unpack(set))
    is_now_written = true
    if role.removed ~= '' then
        put('removed', '')
        redis.call('PERSIST', KEYS[3])
        is_new = true
    end
    if is_new then redis.call('SADD', KEYS[5], group) end
end

local function change_members(events) change(events, true) end

-- The members that came or changed in this call (true), and those that went (false).
local touched = {}
local function take_out(member, text)
    touched[member] = false
    redis.call('ZREM', KEYS[1], member)
    redis.call('HDEL', KEYS[2], member)
    redis.call('HDEL', KEYS[8], member)
    redis.call('HDEL', KEYS[3], 'was:' .. member)
    count_lease(lease_of(text), -1)
end
