-- Gives a task up.
-- KEYS: 1 task hash, 2 active, 3 lease, 4 archived, 5 processed on this day,
--       6 failed on this day, 7 processed, 8 failed
-- ARGV: 1 id, 2 token, 3 its new msg, 4 now, 5 when the day's counters expire,
--       6 '1' if this may have run before, 7 prefix of task keys, 8 prefix of the queue's
--       keys, 9 score up to which archived tasks are deleted, 10 how many are kept,
--       11 channel of its outcome, 12 the error
-- Returns 1, or 0 if its lease is lost

if not leave_held(KEYS[2], KEYS[3], KEYS[1], ARGV[1], ARGV[2]) then
  local msg, state = unpack(redis.call('HMGET', KEYS[1], 'msg', 'state'))
  if ARGV[6] == '1' and msg == ARGV[3] and state == 'archived' then return 1 end
  return 0
end
if redis.call('HEXISTS', KEYS[1], 'watched') == 1 then
  redis.call('PUBLISH', ARGV[11], 'a' .. ARGV[12])
end
redis.call('HSET', KEYS[1], 'msg', ARGV[3], 'state', 'archived')
redis.call('HDEL', KEYS[1], 'pending_since', 'due_ms', 'watched')
redis.call('ZADD', KEYS[4], ARGV[4], ARGV[1])
trim(KEYS[4], ARGV[7], ARGV[8], ARGV[9], ARGV[10])
count_day(KEYS[5], 1, ARGV[5])
count_day(KEYS[6], 1, ARGV[5])
add(KEYS[7], 1)
add(KEYS[8], 1)
return 1
