-- Removes a leaving worker's entries, once it owns no job.
-- KEYS: 1 workers hash, 2 worker-keepalive hash, 3 cleanup hash, 4 jobs hash
-- ARGV: 1 to 4 channels of these, 5 worker id
-- Returns 1, or 0 if jobs are still in its list (peers will see to them)

local stored = redis.call('HGET', KEYS[4], ARGV[5])
if stored and #list_items(stored) > 0 then return 0 end
for i = 1, 4 do map_del(KEYS[i], ARGV[i], ARGV[5]) end
return 1
