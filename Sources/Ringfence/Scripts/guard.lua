-- SPDX-License-Identifier: Apache-2.0
--
-- The guard of a Redis write: refuses a fence older than the newest this Redis has seen for the resource.
--
-- A lock alone cannot stop a holder that was paused past its deadline and wakes up in the middle of its work: nobody
-- can reach into that process. Only the resource can, by remembering the newest fence that wrote to it. Put this text
-- in front of your own script, so that the check and your write are one atomic step, and call the guard before your
-- first write (Redis does not roll back what a script wrote before an error):
--
--   KEYS[1]  the guard's own key, e.g. guard:{account:42}; in a cluster give it the hash tag of the data it guards
--   ARGV[1]  fence: the lease's fence, a decimal string from 1 to 9223372036854775807
--   ARGV[2]  holder: the lease's id, 1 to 256 bytes
--
--   if not ringfence_guard(KEYS[1], ARGV[1], ARGV[2]) then
--     return redis.error_reply('STALEFENCE a newer holder wrote')
--   end
--
-- RESULT   true: the write may go on, and (fence, holder) is recorded as the newest. The same holder may pass again
--          and again under one fence. false: a newer fence was seen, or the same fence of another holder: write
--          nothing. An error: an argument is malformed or the key holds something else; nothing was recorded.
--
-- Several resources under one fence (a transfer): guard all of them before the first write; a refusal leaves the others
-- with your fence recorded, which no later holder minds, since its fence is higher.
--
-- Why strings: a Lua number is a double, exact to 2^53 only, and a fence has 63 bits. Two decimal strings without
-- leading zeros compare by length, then digit by digit. Why the holder: after a failover two holders may have been
-- given one fence. Why no expiry: a guard that forgets lets the oldest writer in. If you must bound it, PEXPIRE the
-- key after your write with more than the longest time a stopped writer may sleep.
local function ringfence_guard(key, fence, holder)
  local function well_formed(digits)
    return type(digits) == 'string' and #digits <= 19 and string.find(digits, '^[1-9][0-9]*$') ~= nil
      and (#digits < 19 or digits <= '9223372036854775807')
  end
  if type(key) ~= 'string' or key == '' then
    error('ringfence_guard: key must be a non-empty string', 0)
  end
  if not well_formed(fence) then
    error('ringfence_guard: fence must be a decimal string from 1 to 9223372036854775807', 0)
  end
  if type(holder) ~= 'string' or #holder < 1 or #holder > 256 then
    error('ringfence_guard: holder must be a string of 1 to 256 bytes', 0)
  end

  local seen = redis.call('GET', key)
  if seen then
    local seen_fence, seen_holder = string.match(seen, '^([0-9]+):(.*)$')
    if not well_formed(seen_fence) then
      error('ringfence_guard: the key holds something that is not a guard', 0)
    end
    if fence == seen_fence then return holder == seen_holder end
    if #fence < #seen_fence or (#fence == #seen_fence and fence < seen_fence) then return false end
  end
  redis.call('SET', key, fence .. ':' .. holder)
  return true
end
