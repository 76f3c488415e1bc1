-- Removes a leaving worker's entries, unless it could not let go of all its jobs. What is in
-- its list beside these it never heard of: their events are pending, and come again.
-- KEYS: 1 workers hash, 2 worker-keepalive hash, 3 cleanup hash, 4 jobs hash, 5 homes
-- ARGV: 1 to 4 channels of the first four, 5 worker id, then the keys of jobs that it still has
-- Returns 1, or 0 if jobs that it has are still in its list (peers will see to them)

local stored = redis.call('HGET', KEYS[4], ARGV[5])
for i = 6, #ARGV do
  if stored and list_has(stored, ARGV[i]) then return 0 end
end
redis.call('HDEL', KEYS[5], ARGV[5])
for i = 1, 4 do map_del(KEYS[i], ARGV[i], ARGV[5]) end
return 1
