-- SPDX-License-Identifier: Apache-2.0
-- The role's fields.
--
-- The primary. It is one of the candidates: members whose record says that they stand. A group without candidates
-- elects nobody. The role has an epoch, which grows with each election, and a phase: 'vacant'; 'elected', the primary
-- is being promoted; 'ready', it said that it is; 'handingOver', it hands over to the target; 'recovering', Redis lost
-- data and the holder of the epoch may say so. Every call that is not quiet ends with the same decision (`decide`): at
-- most one end of a role and one election. A beat or a look is quiet if nothing is due at that moment and it says
-- nothing new, even if it is told what others were told before it; while the role is vacant or handed over no beat of a
-- candidate is quiet. A candidate does not report its steps by verbs but claims them with each beat, so a lost answer
-- does no harm: the next beat says it again:
--    e:E  I am promoted for E; r:E  I am ready; d:E:P:V  I stopped, P is my last position;
--    g:E:why  I gave E up for good
-- (Without P the target is elected only where no candidate tells a position. V is the version the holder saw last.
-- While the claim is on its way, the switchover can be taken back, the holder go on, and another be ordered: what it
-- says of the first is no answer to the second, whose version is higher.)
--
-- No two at once. A role ends by its holder's own clock before its lease does, and never goes on under the same epoch.
-- So it can be given to another as soon as the lease is over, or the holder itself has said that it is over (it left,
-- gave up, handed over). Of any other end (its session is replaced, it is taken out, a failover by hand) the holder
-- hears later: nobody is elected before the lease as it stood at that moment is over (`electAfter`). Nor
--  * for one lease after the first candidate of a group came: Redis may have lost a group that had a primary;
--  * for the longest lease, counting those of members that come then, after the server is another one, or lost data: it
--    may have lost an election. (It may have lost more than one; the next epoch leaves out 16. A member that knows a
--    higher epoch says so, and the epochs go on from that.)
-- As long as that lasts no switchover is taken (`waiting`), no failback begins, and a primary that stopped for one
-- keeps the role. Where the setting `onCoordinatorLoss` is 'failsafe', a primary that cannot reach Redis goes on as
-- long as every candidate that it knows promises it, again and again, to begin no role meanwhile. A member that was no
-- candidate yet in the last version that the primary said it knew (`pKnown`) has promised nothing. If it is not known
-- that the primary stopped (`silentSince`), such a member is not elected, not even by an operator's order, before the
-- longest time is over for which a primary may go on (`failsafeLimitMs`). When the server is another one, nobody knows
-- whether it has lost an election, so this holds for every candidate. There is nobody to wait for if all of this is
-- true:
--  * The primary that the copy knows says itself that its role is over (`vouched`). So if the lost part held an
--    election, the member elected was known to that primary, which was silent then. For had it given up before, no
--    member unknown to it would have been elected before it heard that it was heard (`gaveUp`); and then it would know
--    of what was lost (next).
--  * Nobody knows anything that was lost: a mark that the log does not hold, a version, an epoch.
--  * All members are back that were there when the server was the same for the last time (`copyVersion`), and none has
--    gone since but by its own word (`missed`). For the copy knows all members that the primary knew; had one of them
--    been elected, it would say so.
--  * Less than `failsafeLimitMs` has passed since the last call that the copy knows, by the clocks of both servers.
--    After that time even an unknown member is elected.
-- (This does not find lost orders. An operator that ordered `onCoordinatorLoss` demote or a smaller `failsafeLimitMs`
-- said by that that the old primary is dead.)

-- What an election needs, read at once and written back where it changed. A small hash is read whole: that is three
-- times as quick as so many fields by name.
local SMALL = 64
local NAMES = {
    'memberVersion', 'epoch', 'primary', 'pSession', 'phase', 'candidates', 'checkAt', 'since', 'electAfter',
    'vacantSince', 'runVersion', 'copyVersion', 'missed', 'lastPrimary', 'lastWhy', 'lastPosition', 'final', 'target',
    'handoverUntil', 'forced', 'orders', 'orderBy', 'orderWhy', 'skip', 'pausedUntil', 'brakedUntil', 'failovers',
    'short', 'failbackAt', 'penalties', 'maintenance', 'readyMember', 'readyEpoch', 'handoverVersion', 'pKnown',
    'silentSince', 'lostAt', 'failbackWait', 'failures', 'gaveUp', 'vouched', 'emptySince',
    'changesVersion', 'changesFloor', 'removed'
}
if redis.call('HLEN', KEYS[3]) <= SMALL then
    local flat = redis.call('HGETALL', KEYS[3])
    role = texts()
    for i = 1, #flat, 2 do role[flat[i]] = flat[i + 1] end
else
    read_role(NAMES)
end
local changed = {}
local function put(name, value)
    assert(value ~= nil)
    if type(value) == 'number' then value = int(value) end
    if role[name] == value then return end
    role[name], changed[name] = value, true
    if name == 'epoch' then epoch = tonumber(value) end
    if name == 'primary' then primary = value end
    if name == 'pSession' then primary_session = value end
    if name == 'phase' then phase = value end
    if name == 'checkAt' then check_at = tonumber(value) or 0 end
end
local function elect_not_before(moment)
    if moment > num('electAfter') then put('electAfter', moment) end
end
-- A primary that may still act without Redis does so for at most `failsafeLimitMs` from here; an earlier, longer limit
-- stays.
local function silent_from(moment)
    if moment > num('silentSince') then put('silentSince', moment) end
end
-- A member that is not heard of may still act: that all others are back proves nothing any more.
local function is_missed() put('missed', version) end
local function write_role()
    local set, dropped = {}, {}
    for name in pairs(changed) do
        if role[name] == '' then
            dropped[#dropped + 1] = name
        else
            set[#set + 1] = name
            set[#set + 1] = role[name]
        end
    end
    if #set > 0 then redis.call('HSET', KEYS[3], unpack(set)) end
    if #dropped > 0 then redis.call('HDEL', KEYS[3], unpack(dropped)) end
end
