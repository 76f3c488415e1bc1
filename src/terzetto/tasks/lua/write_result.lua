-- Sets the result of a task that is held.
-- KEYS: 1 task hash, 2 lease
-- ARGV: 1 id, 2 token, 3 result
-- Returns 1, or 0 if its lease is lost

if redis.call('HGET', KEYS[1], 'pending_since') ~= ARGV[2] then return 0 end
if not redis.call('ZSCORE', KEYS[2], ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'result', ARGV[3])
return 1
