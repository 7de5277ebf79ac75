-- SPDX-License-Identifier: Apache-2.0
-- trial.lua: does once what locks do, on a key of its own, to see whether this Redis lets us. Leaves nothing.
--
-- Asking for each right, for the role, for memory and for the slot would be four questions. Some of them may not be
-- asked, and none answers what counts: whether the commands are accepted.
--
-- KEYS   1 a key that nothing else uses, 2 the absent key
-- ARGV   1 a channel that nobody listens to
-- RESULT '' or what only informs was refused with; any other refusal is the script's error
redis.call('TIME')
redis.call('SET', KEYS[1], 'trial', 'PX', 1000)
redis.call('GET', KEYS[1])
redis.call('PTTL', KEYS[1])
redis.call('PEXPIRE', KEYS[1], 1000)
redis.call('DEL', KEYS[1])
redis.call('ZADD', KEYS[1], 1, 'trial')
redis.call('ZRANGE', KEYS[1], 0, 0)
redis.call('ZREM', KEYS[1], 'trial')
redis.call('XADD', KEYS[1], 'MAXLEN', '~', 1, '*', 'trial', '')
redis.call('DEL', KEYS[1])
local told = redis.pcall('PUBLISH', ARGV[1], '')
return type(told) == 'table' and told.err or ''
