-- SPDX-License-Identifier: Apache-2.0
-- rights.lua: which of Ringfence's commands may this user not call? Nothing is changed.
--
-- KEYS   1 a lock key, 2 a queue key, 3 the audit key, 4 the state key of a group, 5 the absent key
-- ARGV   1 the channel of an inbox that nobody has
-- RESULT the commands that are refused, in the order below
--
-- Redis 7 and later can be asked. On earlier versions only pushing is tried, to the channel that nobody hears: the
-- rights on keys come with the user's pattern, those on channels are the ones most often forgotten.
if not redis.acl_check_cmd then
    local told = redis.pcall('PUBLISH', ARGV[1], '')
    return type(told) == 'table' and { 'PUBLISH' } or {}
end
local refused = {}
for _, words in ipairs({
    { 'GET', KEYS[1] }, { 'SET', KEYS[1], '1' }, { 'DEL', KEYS[1] }, { 'PEXPIRE', KEYS[1], '1' },
    { 'ZADD', KEYS[2], '1', '1' }, { 'ZREM', KEYS[2], '1' }, { 'XADD', KEYS[3], '*', 'a', 'b' },
    { 'HSET', KEYS[4], 'a', 'b' }, { 'TIME' }, { 'PUBLISH', ARGV[1], '' }, { 'SUBSCRIBE', ARGV[1] },
    { 'PUBSUB', 'NUMSUB', ARGV[1] },
}) do
    if not redis.acl_check_cmd(unpack(words)) then refused[#refused + 1] = words[1] end
end
return refused
