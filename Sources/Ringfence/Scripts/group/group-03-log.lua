-- SPDX-License-Identifier: Apache-2.0
-- The event log.
--
-- The log. A sequence is given once within a generation. A generation ends when the log may have stepped back: when the
-- server that writes it is another process, or was promoted (`run`). How far the old generation went is kept (`forks`:
-- its cursors are good up to there), and the numbers go on. Where an ACL forbids INFO none of this is noticed.

-- Something may change. All that follows is one function, for speed: Lua finds a variable of an enclosing function at
-- once, but searches for one of the same function, for each of the functions that use it.
local function act()

local group, fresh, retain, known_longest = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[7])
local GRACE = 3000
local SKIP = 16
local HALF_LIFE = 300000
local ORDERS = 8
local MAINTAINED = 128
local FAILBACK_WAIT = 3600000
local GONE = 1024
local REMEMBERED = 30 * 86400000
local MAX_LAG = 16777216
local LONGEST_REST = 60000

-- A full Redis lets a script that has written go on.
if verb ~= 'note' and (verb ~= 'join' or record) then redis.call('HDEL', KEYS[3], '') end


-- The server's history, which gets a new name when it starts and when it is promoted; its process, if it does not tell
-- that; '' if it may not be asked. (Found by a plain search: a pattern is tried at each character.)
local server_name
local function server()
    if server_name then return server_name end
    server_name = ''
    for _, part in ipairs({ { 'replication', 'master_replid:' }, { 'server', 'run_id:' } }) do
        local info = redis.pcall('INFO', part[1])
        local _, last = nil, nil
        if type(info) == 'string' then _, last = string.find(info, part[2], 1, true) end
        local name = last and string.match(info, '^%w+', last + 1)
        if name then
            server_name = name
            break
        end
    end
    return server_name
end

-- Writes events: generation, sequence, at, type and group, and then their other fields, which are JSON already. They
-- are written before what they tell of is done: if the log cannot take them, nothing has happened.
local FIELDS = { 'member', 'version', 'of', 'epoch', 'previous', 'reason', 'actor', 'detail' }
local is_log_checked = false
local function append(events)
    if not is_log_checked then
        is_log_checked = true
        local run = server()
        if generation == '' then
            -- The stream may have outlived the hash; its numbers are not given again.
            local newest = redis.call('XREVRANGE', KEYS[6], '+', '-', 'COUNT', 1)[1]
            sequence = newest and tonumber(string.match(newest[1], '^%d+')) or 0
            generation = fresh
            redis.call('HSET', KEYS[7], 'generation', generation, 'run', run, 'sequence', int(sequence), 'forks', '')
            log[3] = run
        elseif log[3] ~= run then
            local forks = { generation .. '@' .. int(sequence) }
            for fork in string.gmatch(redis.call('HGET', KEYS[7], 'forks') or '', '%S+') do
                if #forks < 16 then forks[#forks + 1] = fork end
            end
            generation = fresh
            redis.call('HSET', KEYS[7], 'generation', generation, 'run', run, 'forks', table.concat(forks, ' '))
            log[3] = run
        end
    end
    for _, event in ipairs(events) do
        sequence = sequence + 1
        local json = { '{"generation":"', generation, '","sequence":', int(sequence), ',"at":', int(at),
            ',"type":"', event.type, '","group":', cjson.encode(group) }
        for i = 1, #FIELDS do
            local field = FIELDS[i]
            if event[field] then
                json[#json + 1] = ',"' .. field .. '":'
                json[#json + 1] = event[field]
            end
        end
        json[#json + 1] = '}'
        local text = table.concat(json)
        redis.call('XADD', KEYS[6], 'MAXLEN', '~', retain, int(sequence) .. '-0', 'e', text)
        redis.call('HSET', KEYS[7], 'sequence', int(sequence))
        -- A user without rights to the channel must not stop here, half done. A subscriber that missed it looks, and
        -- reads the stream.
        redis.pcall('PUBLISH', KEYS[6], text)
    end
end

-- Whether the log no longer holds what had this mark, <generation>:<sequence>.
local function is_lost(of)
    local its_generation, its_sequence = string.match(of, '^(%w+):(%d+)$')
    if not its_generation then return true end
    its_sequence = tonumber(its_sequence)
    if its_generation == generation then return its_sequence > sequence end
    for fork, kept in string.gmatch(redis.call('HGET', KEYS[7], 'forks') or '', '(%w+)@(%d+)') do
        if fork == its_generation then return its_sequence > tonumber(kept) end
    end
    return true
end
