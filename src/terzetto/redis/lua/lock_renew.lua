-- Put off the end of a lock that is ours.
-- KEYS[1]: the lock
-- ARGV[1]: the owner; ARGV[2]: time to live in milliseconds
-- Returns 1, or 0 if it is not ours any more.
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then
  return 0
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
