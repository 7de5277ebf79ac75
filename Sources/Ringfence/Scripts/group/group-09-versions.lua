-- SPDX-License-Identifier: Apache-2.0
-- Versions never go back.
--
-- A caller that knows a higher version than is stored, or this version with another mark, knows what Redis has lost (it
-- restarted without its data, or an older copy was promoted). The group then goes on with the next version after the
-- caller's, and with the seed and points per weight that the caller knows, and says so (`state.rolledBack`); nobody is
-- taken out for the longest lease, the time for the others to come back. Until then (`ms of recovery`) callers that
-- knew more members may go on with those. A member that is missing is told 'unknown' if the mark of its join is among
-- what was lost, and 'expired' if not.

if is_behind or is_epoch_behind then
    local was, note = version, ''
    if was == 0 then begin() end
    version = math.max(version, known_version)
    local longest_known = math.max(longest, known_longest)
    if is_behind then
        grace_until = math.max(grace_until, now + longest_known)
        recover_until = grace_until
    end
    if is_epoch_behind then note = ',"epoch":' .. int(known_epoch) end
    local healed_from = version
    change_members({ { type = 'state.rolledBack',
        detail = '{"from":' .. int(healed_from) .. ',"to":' .. int(was) .. note .. '}' } })
    if was == 0 then redis.call('SADD', KEYS[5], group) end
    if ARGV[8] ~= '' and is_behind then redis.call('HSET', KEYS[4], 'seed', ARGV[8], 'pointsPerWeight', ARGV[9]) end
    redis.call('HSET', KEYS[3], 'graceUntil', int(grace_until), 'recoverUntil', int(recover_until))
    elect_not_before(now + longest_known)
    put('pKnown', '')
    silent_from(now + longest_known)
    for _, name in ipairs({ 'copyVersion', 'gaveUp', 'vouched' }) do put(name, '') end
    put('lostAt', now)
    if is_epoch_behind then
        -- The member that the data names was primary of an epoch that is over.
        if primary ~= '' then put('lastPrimary', primary) end
        put('epoch', math.max(epoch, known_epoch))
        put('primary', '')
        put('pSession', '')
        put('phase', 'recovering')
        put('vacantSince', now)
        put('target', '')
        put('forced', '')
        put('final', '')
        put('lastWhy', 'lost')
    end
end
