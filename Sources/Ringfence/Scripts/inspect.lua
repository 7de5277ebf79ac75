-- SPDX-License-Identifier: Apache-2.0
-- inspect.lua: one lock in one atomic look; changes nothing.
--
-- KEYS   1 lock key, 2 fence key, 3 queue key
-- ARGV   1 how many waiters to list at most
-- RESULT {value or nil, ms left, last fence or nil, queue length, server µs, {place, arrival µs, place, arrival µs, …}}
local time = redis.call('TIME')
return {
    redis.call('GET', KEYS[1]),
    redis.call('PTTL', KEYS[1]),
    redis.call('GET', KEYS[2]),
    redis.call('ZCARD', KEYS[3]),
    string.format('%.0f', time[1] * 1000000 + time[2]),
    redis.call('ZRANGE', KEYS[3], 0, ARGV[1] - 1, 'WITHSCORES'),
}
