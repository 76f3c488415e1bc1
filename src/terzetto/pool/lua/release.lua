-- Releases the guards of dispatches that are over, each if it is still the one that this
-- dispatch set.
-- KEYS: 1 pending-jobs hash, then the claims' own keys
-- ARGV: 1 channel of pending-jobs, then the job key of each claim
-- Returns for each claim {released, event id}: 1 or 0, and the id of its event if that was
--         read for the node that asked, else ''

local replies = {}
for i = 2, #KEYS do
  local known, released, handed = redis.call('GET', KEYS[i]), 0, ''
  if known then
    local guard, id, was_handed = string.match(known, '^(%d+) (%S+) (%d)$')
    redis.call('DEL', KEYS[i])
    if redis.call('HGET', KEYS[1], ARGV[i]) == guard then
      map_del(KEYS[1], ARGV[1], ARGV[i])
      released = 1
    end
    if was_handed == '1' then handed = id end
  end
  replies[i - 1] = {released, handed}
end
return replies
