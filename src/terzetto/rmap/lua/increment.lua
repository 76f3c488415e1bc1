-- Adds to the integer that a key holds; an absent key counts as 0.
-- KEYS[1]  the content hash
-- ARGV[1]  the updates channel
-- ARGV[2]  expiry in whole seconds, 0 for none
-- ARGV[3]  "absolute" (armed once) or "sliding" (armed anew)
-- ARGV[4]  key
-- ARGV[5]  what to add, a 64-bit integer
-- returns  the new value as text
-- raises   and changes nothing, if the value is no integer or would leave 64 bits

local key = ARGV[4]
local previous = redis.call('HGET', KEYS[1], key)
redis.call('HINCRBY', KEYS[1], key, ARGV[5])
local counted = redis.pcall('HINCRBY', KEYS[1], '=rev', 1)
if type(counted) == 'table' then
  -- The revision cannot be read: take the change back.
  if previous then
    redis.call('HSET', KEYS[1], key, previous)
  else
    redis.call('HDEL', KEYS[1], key)
  end
  return redis.error_reply('ERR the revision of the map cannot be read')
end
local revision = string.format('%.0f', counted)
-- Read as text, for a Lua number would round what is beyond 2^53.
local value = redis.call('HGET', KEYS[1], key)
redis.call('HSET', KEYS[1], '=kind', 'set')
redis.call('PUBLISH', ARGV[1], 'set:' .. struct.pack('<i4c0i4c0i4c0', #key, key, #value, value, #revision, revision))
if ARGV[2] ~= '0' then
  if ARGV[3] == 'sliding' then
    redis.call('EXPIRE', KEYS[1], ARGV[2])
  else
    redis.call('EXPIRE', KEYS[1], ARGV[2], 'NX')
  end
end
return value
