-- Enters a new worker with its first sign of life, in one step.
-- KEYS: 1 workers hash, 2 worker-keepalive hash, 3 shutdown hash, 4 homes
-- ARGV: 1 and 2 channels of the first two, 3 worker id, 4 its home
-- Returns its creation time in ns as text, or '' while the pool is being shut down

if redis.call('HEXISTS', KEYS[3], 'shutdown') == 1 then return '' end
local created = redis.call('HGET', KEYS[1], ARGV[3])
if created then return created end
redis.call('HSET', KEYS[4], ARGV[3], ARGV[4])
created = decimal(now_us()) .. '000'
map_set(KEYS[2], ARGV[2], ARGV[3], created)
map_set(KEYS[1], ARGV[1], ARGV[3], created)
return created
