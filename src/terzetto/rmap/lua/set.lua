-- Sets a key, whatever was there.
-- KEYS[1]  the content hash
-- ARGV[1]  the updates channel
-- ARGV[2]  expiry in whole seconds, 0 for none
-- ARGV[3]  "absolute" (armed once) or "sliding" (armed anew)
-- ARGV[4]  key
-- ARGV[5]  value
-- returns  {1 if the key existed else 0, the previous value or "", the revision as text}

local key, value = ARGV[4], ARGV[5]
local previous = redis.call('HGET', KEYS[1], key)
-- The revision comes first: if it cannot be read, this raises before anything has changed.
local revision = string.format('%.0f', redis.call('HINCRBY', KEYS[1], '=rev', 1))
redis.call('HSET', KEYS[1], key, value, '=kind', 'set')
redis.call('PUBLISH', ARGV[1], 'set:' .. struct.pack('<i4c0i4c0i4c0', #key, key, #value, value, #revision, revision))
if ARGV[2] ~= '0' then
  if ARGV[3] == 'sliding' then
    redis.call('EXPIRE', KEYS[1], ARGV[2])
  else
    redis.call('EXPIRE', KEYS[1], ARGV[2], 'NX')
  end
end
return {previous and 1 or 0, previous or '', revision}
