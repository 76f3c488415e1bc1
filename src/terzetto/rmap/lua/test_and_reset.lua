-- Removes every key if some keys hold the expected values; with no keys, always.
-- KEYS[1]  the content hash
-- ARGV[1]  the updates channel
-- ARGV[2]  expiry in whole seconds, 0 for none
-- ARGV[3]  "absolute" (armed once) or "sliding" (armed anew)
-- ARGV[4]  how many keys are tested
-- ARGV[5…] the keys, then as many expected values
-- returns  1 if the map was reset, else 0

local count = tonumber(ARGV[4])
local matches = true
for i = 5, 4 + count do
  if redis.call('HGET', KEYS[1], ARGV[i]) ~= ARGV[i + count] then
    matches = false
    break
  end
end
if matches then
  local revision = string.format('%.0f', redis.call('HINCRBY', KEYS[1], '=rev', 1))
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], '=rev', revision, '=kind', 'reset')
  redis.call('PUBLISH', ARGV[1], 'reset:' .. revision)
end
if ARGV[2] ~= '0' then
  if ARGV[3] == 'sliding' then
    redis.call('EXPIRE', KEYS[1], ARGV[2])
  else
    redis.call('EXPIRE', KEYS[1], ARGV[2], 'NX')
  end
end
return matches and 1 or 0
