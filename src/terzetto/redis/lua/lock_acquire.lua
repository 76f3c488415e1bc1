-- Take a lock if it is free or already ours.
-- KEYS[1]: the lock; KEYS[2]: the counter of its fencing tokens
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
local token = redis.call('INCR', KEYS[2])
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'token', token)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {1, token}
