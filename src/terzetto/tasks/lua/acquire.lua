-- Takes a place in a scope that is limited.
-- KEYS: 1 holders
-- ARGV: 1 holder, 2 how many places there are, 3 now, 4 until when
-- Returns 1, or 0 if none is free

redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[3])
if not redis.call('ZSCORE', KEYS[1], ARGV[1])
    and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then
  return 0
end
redis.call('ZADD', KEYS[1], ARGV[4], ARGV[1])
return 1
