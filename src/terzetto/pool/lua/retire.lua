-- Marks a worker as leaving, so that nothing more is sent to it.
-- KEYS: 1 workers hash
-- ARGV: 1 channel of workers, 2 worker id, 3 its creation time
-- Returns 1, or 0 if it is not in the pool under that creation time

if redis.call('HGET', KEYS[1], ARGV[2]) ~= ARGV[3] then return 0 end
map_set(KEYS[1], ARGV[1], ARGV[2], '-')
return 1
