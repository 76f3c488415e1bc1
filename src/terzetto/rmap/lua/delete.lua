-- Deletes a key if it is there.
-- KEYS[1]  the content hash
-- ARGV[1]  the updates channel
-- ARGV[2]  expiry in whole seconds, 0 for none
-- ARGV[3]  "absolute" (armed once) or "sliding" (armed anew)
-- ARGV[4]  key
-- returns  the value before, or nil if the key was absent

local key = ARGV[4]
local previous = redis.call('HGET', KEYS[1], key)
if previous then
  -- The revision comes first: if it cannot be read, this raises before anything has changed.
  local revision = string.format('%.0f', redis.call('HINCRBY', KEYS[1], '=rev', 1))
  redis.call('HDEL', KEYS[1], key)
  redis.call('HSET', KEYS[1], '=kind', 'del')
  redis.call('PUBLISH', ARGV[1], 'del:' .. struct.pack('<i4c0i4c0', #key, key, #revision, revision))
end
if ARGV[2] ~= '0' then
  if ARGV[3] == 'sliding' then
    redis.call('EXPIRE', KEYS[1], ARGV[2])
  else
    redis.call('EXPIRE', KEYS[1], ARGV[2], 'NX')
  end
end
return previous
