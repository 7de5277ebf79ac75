-- SPDX-License-Identifier: Apache-2.0
-- renew.lua: renews, or claims, any number of leases in one call.
--
-- KEYS   the lock keys of every lease, lease after lease; then, with a claim, `unanswered:` of the process that claims
-- ARGV   for each lease three: how many of the keys are its own, its value, hold in ms
-- RESULT for each lease 1 (renewed on every one of its keys) or 0 (not held any more: nothing of it was renewed)
--
-- Compare, then lengthen; never create, and never shorten what is held. So a late or repeated renewal is harmless: it
-- cannot bring a released lock back, and it cannot cut a newer, longer one. A key of another type counts as not held,
-- for its own lease only (hence pcall). Of a lease on several names some may have been taken away: then the lease is
-- over, and its holder, once told, gives the rest back by a release. It is not cut short here: this answer may be lost,
-- and then the holder goes by the deadline it has.
local results, first = {}, 1
for i = 1, #ARGV, 3 do
    local last, value, hold_ms = first + ARGV[i] - 1, ARGV[i + 1], tonumber(ARGV[i + 2])
    local held = 1
    for k = first, last do
        if redis.pcall('GET', KEYS[k]) ~= value then held = 0 end
    end
    if held == 1 then
        for k = first, last do
            if redis.call('PTTL', KEYS[k]) < hold_ms then redis.call('PEXPIRE', KEYS[k], ARGV[i + 2]) end
        end
    end
    results[#results + 1] = held
    first = last + 1
end
if KEYS[first] then redis.call('DEL', KEYS[first]) end
return results
