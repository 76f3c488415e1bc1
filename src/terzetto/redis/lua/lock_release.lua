-- Give back a lock that is ours, and tell those who wait.
-- KEYS[1]: the lock
-- ARGV[1]: the owner; ARGV[2]: the channel of those who wait
-- Returns 1, or 0 if it was not ours any more.
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', ARGV[2], '')
return 1
