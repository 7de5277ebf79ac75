-- SPDX-License-Identifier: Apache-2.0
-- inspect.lua: one lock in one atomic look; changes nothing.
--
-- KEYS   1 lock key, 2 fence key, 3 queue key, 4 the absent key
-- ARGV   1 how many waiters to list at most, 2 the prefix of `place:` keys
-- RESULT {value or nil, ms left, last fence or nil, queue length, server µs, {place, arrival µs, place, arrival µs, …},
--        {all names of the first place, a line each, or '' if the place says it, …}}
local time = redis.call('TIME')
local places = redis.call('ZRANGE', KEYS[3], 0, ARGV[1] - 1, 'WITHSCORES')
local names = {}
for i = 1, #places, 2 do
    local nonce = string.match(places[i], '^[^-\n]*%-%d+x[^\n]*')
    names[#names + 1] = nonce and redis.call('GET', ARGV[2] .. nonce) or ''
end
return {
    redis.call('GET', KEYS[1]),
    redis.call('PTTL', KEYS[1]),
    redis.call('GET', KEYS[2]),
    redis.call('ZCARD', KEYS[3]),
    string.format('%.0f', time[1] * 1000000 + time[2]),
    places,
    names,
}
