-- Take a lock if it is free or already ours.
-- KEYS[1]: the lock; KEYS[2]: the last of its fencing tokens
-- ARGV[1]: the owner; ARGV[2]: time to live in milliseconds
-- Returns {1, token}, or {0, milliseconds until it expires}.
local held = redis.call('HMGET', KEYS[1], 'owner', 'token')
if held[1] == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return {1, tonumber(held[2])}
end
if held[1] then
  return {0, redis.call('PTTL', KEYS[1])}
end
-- The clock keeps tokens growing where a fail-over has lost the last one.
local now = redis.call('TIME')
local last = tonumber(redis.call('GET', KEYS[2]) or 0)
local token = math.max(last + 1, now[1] * 1000000 + now[2])
local text = string.format('%.0f', token)
redis.call('SET', KEYS[2], text)
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'token', text)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {1, token}
