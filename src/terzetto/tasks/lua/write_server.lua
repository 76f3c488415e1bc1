-- Writes what a server says of itself and what it is running.
-- KEYS: 1 server, 2 workers
-- ARGV: 1 ttl in s, 2 info, 3 '1' if the workers are all there are, 4 how many ended,
--       then the fields of those, then for each that began its field and info
-- Returns how many workers there are now

redis.call('SETEX', KEYS[1], ARGV[1], ARGV[2])
if ARGV[3] == '1' then redis.call('DEL', KEYS[2]) end
local ended = tonumber(ARGV[4])
for i = 5, 4 + ended do redis.call('HDEL', KEYS[2], ARGV[i]) end
for i = 5 + ended, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
redis.call('EXPIRE', KEYS[2], ARGV[1])
return redis.call('HLEN', KEYS[2])
