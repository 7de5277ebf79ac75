-- SPDX-License-Identifier: Apache-2.0
-- The answer to the caller, and the short way for a call that changes nothing.
--
-- Members unchanged. Most changes of a large group are of its role only, and all its watchers ask after each. The
-- version of the last change of members is kept (`memberVersion`). A caller has the members already if its version is
-- no older, and was made in this generation of the log, so that it cannot be one that was lost. (Where INFO is
-- forbidden generations do not end, so every caller is sent all members.)
--
-- Pages. An answer is never as large as a group may be: 64 joins at once into a group of 9,000, each answered with all
-- of them, filled the memory of Redis faster than anybody read. A group of up to 64 members is told whole. Of a larger
-- one it is kept in which version each member last changed (`changes`), and when the last 1,024 that are gone went
-- (`gone`); a look is told up to 256 of what changed since the version that it knows, or else of all, in the order of
-- these versions, with a record of '' for a member that is gone; and a `next` to go on from, '' with the last. A member
-- that changes meanwhile comes again at the end, so that with the last page all is as it is now. `from` is '' from the
-- beginning, 'known' from what the caller said it knew, else the `next` that it gave: it says <generation>:<version
-- when it began>:<how far>, and is good as long as no one is forgotten that went since it began. Other calls are told
-- up to 16 changes, or else 'more'.

local wants_leases = verb == 'watch' and id == 'leases'

local settings_read
local function setting(name, default)
    if not settings_read then
        settings_read = {}
        local flat = redis.call('HGETALL', KEYS[4])
        for i = 1, #flat, 2 do settings_read[flat[i]] = flat[i + 1] end
    end
    local value = settings_read[name]
    if value == nil then return default end
    return type(default) == 'number' and tonumber(value) or value
end

local SETTINGS = { 'rank', 'maxLag', 'lagStep', 'zone', 'failback', 'failbackAfterMs', 'handoverTimeoutMs',
    'minStandbys',
    'minStandbysAction', 'brakeCount', 'brakeWindowMs', 'onCoordinatorLoss', 'failsafeLimitMs', 'breaker' }

local role, size
local function num(name) return tonumber(role[name]) or 0 end

-- The changes of a large group from a place on, as many as an answer takes. Those of one version stay together.
local function page(from, began, after, most)
    local here = redis.call('ZRANGEBYSCORE', KEYS[9], '(' .. after, '+inf', 'WITHSCORES', 'LIMIT', 0, most + SWEEP + 2)
    local gone = redis.call('ZRANGEBYSCORE', KEYS[10], '(' .. after, '+inf', 'WITHSCORES', 'LIMIT', 0, most + SWEEP + 2)
    local list, bytes, count, i, j, place = { 'page', from, '' }, 0, 0, 1, 1, after
    while here[i] or gone[j] do
        local is_gone = not here[i] or (gone[j] and tonumber(gone[j + 1]) < tonumber(here[i + 1]))
        local member, score = is_gone and gone[j] or here[i], int(tonumber(is_gone and gone[j + 1] or here[i + 1]))
        if (count >= most or bytes >= PAGE_BYTES) and score ~= place then
            list[3] = generation .. ':' .. int(began) .. ':' .. place
            break
        end
        if is_gone then j = j + 2 else i = i + 2 end
        local text = not is_gone and redis.call('HGET', KEYS[2], member) or ''
        list[#list + 1] = member
        list[#list + 1] = text
        count, bytes, place = count + 1, bytes + #member + #text, score
    end
    return list
end

-- The members as the caller is told them. Versions of this generation were not lost.
local function members_for(has_cursor)
    local floor, changed = tonumber(role.changesFloor) or math.huge, tonumber(role.memberVersion) or math.huge
    local cursor_generation, began, after = string.match(has_cursor and ARGV[12] or '', '^(%w+):(%d+):(-?%d+)$')
    if cursor_generation == generation and generation ~= '' and tonumber(began) >= floor then
        return page(ARGV[12], tonumber(began), after, PAGE)
    end
    local is_known = generation ~= '' and string.match(known_mark, '^(%w+):') == generation
        and (log[3] or '') ~= ''
    if is_known and not wants_leases and known_version >= changed then return 'unchanged' end
    if (size or redis.call('HLEN', KEYS[2])) <= WHOLE then return redis.call('HGETALL', KEYS[2]) end
    if is_known and not wants_leases and known_version >= floor then
        local list = page('known', known_version, int(known_version), verb == 'watch' and PAGE or FEW)
        if verb == 'watch' or list[3] == '' then return list end
    end
    if verb ~= 'watch' then return 'more' end
    return page('', version, '-inf', PAGE)
end

-- What follows the view: the members, the role and the settings.
local function tell(answer)
    answer[10] = members_for(verb == 'watch')
    answer[11] = {}
    if wants_leases then
        local list, start = answer[10], answer[10][1] == 'page' and 4 or 1
        for i = start, #list, 2 do
            answer[11][#answer[11] + 1] = list[i]
            local ends = tonumber(redis.call('ZSCORE', KEYS[1], list[i]) or '') or now
            answer[11][#answer[11] + 1] = math.max(0, ends - now)
        end
    end
    answer[12], answer[13] = setting('seed', ''), setting('pointsPerWeight', '')
    local shortfall = role.short == '' and 0 or setting('minStandbysAction', 'warn') == 'suspendWrites' and 2 or 1
    answer[14] = { epoch, primary, primary_session, phase, role.since ~= '' and now - num('since') or 0, role.target,
        role.forced == '1' and 1 or 0, shortfall, role.lastPrimary, role.readyMember, num('readyEpoch') }
    answer[15] = {}
    for i = 1, #SETTINGS do
        local name = SETTINGS[i]
        local value = settings_read[name]
        if value then
            answer[15][#answer[15] + 1] = name
            answer[15][#answer[15] + 1] = value
        end
    end
    return answer
end

-- Fields of the group's state by name. Texts; '' for what is not there.
local function texts() return setmetatable({}, { __index = function() return '' end }) end
local function read_role(names)
    local stored = redis.call('HMGET', KEYS[3], unpack(names))
    role = texts()
    for i = 1, #names do role[names[i]] = stored[i] or nil end
end

-- Nothing happened, and the caller only hears what others heard before it. Not if what it knows may have been lost, nor
-- while a member waits to hear that its last claim was heard.
local known_generation, known_sequence = string.match(known_mark, '^(%w+):(%d+)$')
local is_of_this_log = known_mark == '' or (known_generation == generation and tonumber(known_sequence) <= sequence)
if is_quiet and asks and is_of_this_log then
    read_role({ 'since', 'target', 'forced', 'short', 'lastPrimary', 'readyMember', 'readyEpoch', 'gaveUp',
        'memberVersion', 'changesFloor' })
    if role.gaveUp == '' then
        if verb == 'watch' then return tell(view('watching')) end
        renew(tonumber(ARGV[13]))
        note_status()
        return tell(view('member'))
    end
end
