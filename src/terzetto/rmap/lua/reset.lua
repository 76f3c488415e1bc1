-- Removes every key and keeps the map.
-- KEYS[1]  the content hash
-- ARGV[1]  the updates channel
-- ARGV[2]  expiry in whole seconds, 0 for none
-- ARGV[3]  "absolute" (armed once) or "sliding" (armed anew)
-- returns  nil

redis.call('HLEN', KEYS[1]) -- raises if the key holds something else than a hash
-- The count goes on, so that live replicas see the change. A revision that cannot be
-- read begins anew: this is how a broken map is mended.
local counted = redis.pcall('HINCRBY', KEYS[1], '=rev', 1)
local revision = type(counted) == 'table' and '1' or string.format('%.0f', counted)
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], '=rev', revision, '=kind', 'reset')
redis.call('PUBLISH', ARGV[1], 'reset:' .. revision)
if ARGV[2] ~= '0' then
  if ARGV[3] == 'sliding' then
    redis.call('EXPIRE', KEYS[1], ARGV[2])
  else
    redis.call('EXPIRE', KEYS[1], ARGV[2], 'NX')
  end
end
return false
