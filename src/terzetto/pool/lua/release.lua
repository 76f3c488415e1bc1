-- Releases a dispatch's guard, if it is still the one that this dispatch set.
-- KEYS: 1 pending-jobs hash, 2 the claim's own key
-- ARGV: 1 channel of pending-jobs, 2 job key
-- Returns 1 if released, else 0

local known = redis.call('GET', KEYS[2])
if not known then return 0 end
redis.call('DEL', KEYS[2])
if redis.call('HGET', KEYS[1], ARGV[2]) ~= string.match(known, '^%d+') then return 0 end
map_del(KEYS[1], ARGV[1], ARGV[2])
return 1
