-- Enqueues what came of a batch and deletes its tasks.
-- KEYS: 1 to 7 as `place` has them, 8 the set, 9 sets
-- ARGV: 1 to 13 as `place` has them, 14 prefix of task keys, 15 prefix of the queue's keys,
--       16 '1' if this may have run before
-- Returns what `place` returns, or {} if the batch is gone

if not redis.call('ZSCORE', KEYS[9], KEYS[8]) then
  if ARGV[16] == '1' and redis.call('HGET', KEYS[1], 'msg') == ARGV[2] then return {1} end
  return {}
end
local reply = place(KEYS, ARGV)
if reply[1] ~= 1 then return reply end
for _, id in ipairs(redis.call('ZRANGE', KEYS[8], 0, -1)) do erase(ARGV[14] .. id, id, ARGV[15]) end
redis.call('DEL', KEYS[8])
redis.call('ZREM', KEYS[9], KEYS[8])
return reply
