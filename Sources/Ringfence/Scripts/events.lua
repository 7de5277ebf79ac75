-- SPDX-License-Identifier: Apache-2.0
-- events.lua: a look at the event log in one atomic step; changes nothing.
--
-- KEYS   1 log, 2 events, 3 groups, 4 the absent key
-- ARGV   1 verb
--   page   2 the number of an event ('' for no events, the head alone), 3 how many at most
--   state  2 a group's name, '' for all groups
-- RESULT {generation, last number, oldest entry, forks, …}; generation is '' before the first event, the oldest entry
-- '' if none is kept
--   page   the events behind that number, as XRANGE gives them: {{id, {'e', json}}, …}
--   state  {group, version, mark of the version, {member, record, member, record, …},
--          {epoch, primary, its session, phase, target, what is ordered of the breaker or ''}, group, …}
--
-- `log` holds the generation, the last number and the forks: `<generation>@<last number kept> …`, newest first. From
-- these the caller judges whether a position is still in the log.
--
-- The keys of a group are derived from the prefix of KEYS[1]: they share its hash tag, hence the slot.
local MEMBERS_MAXIMUM, BYTES_MAXIMUM = 50000, 32 * 1024 * 1024

local log = redis.call('HMGET', KEYS[1], 'generation', 'sequence', 'forks')
local oldest = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
local result = { log[1] or '', log[2] or '0', oldest and oldest[1] or '', log[3] or '' }

if ARGV[1] == 'page' then
    result[5] = {}
    if ARGV[2] ~= '' then
        -- Every id is <number>-0, so this is the first behind it.
        result[5] = redis.call('XRANGE', KEYS[2], ARGV[2] .. '-1', '+', 'COUNT', ARGV[3])
    end
    return result
end

if ARGV[1] == 'state' then
    local prefix = string.sub(KEYS[1], 1, -4) -- without 'log'
    local names = { ARGV[2] }
    if ARGV[2] == '' then names = redis.call('SMEMBERS', KEYS[3]) end
    local groups, count, bytes = {}, 0, 0
    for _, name in ipairs(names) do
        local members = redis.call('HGETALL', prefix .. 'members:' .. name)
        for _, text in ipairs(members) do bytes = bytes + #text end
        count = count + #members / 2
        if count > MEMBERS_MAXIMUM or bytes > BYTES_MAXIMUM then
            return redis.error_reply('ERR events.lua: too many members for one look; follow one group at a time')
        end
        groups[#groups + 1] = name
        local state = redis.call('HMGET', prefix .. 'state:' .. name, 'version', 'mark', 'epoch', 'primary', 'pSession',
            'phase',
            'target')
        groups[#groups + 1] = state[1] or '0'
        groups[#groups + 1] = state[2] or ''
        groups[#groups + 1] = members
        groups[#groups + 1] = { state[3] or '0', state[4] or '', state[5] or '', state[6] or 'vacant', state[7] or '',
            redis.call('HMGET', prefix .. 'policy:' .. name, 'breaker')[1] or '' }
    end
    result[5] = groups
    return result
end

return redis.error_reply('ERR events.lua: unknown verb ' .. tostring(ARGV[1]))
