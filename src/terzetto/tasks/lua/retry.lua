-- Lets a task be tried again later.
-- KEYS: 1 task hash, 2 active, 3 lease, 4 retry, 5 processed on this day,
--       6 failed on this day, 7 processed, 8 failed
-- ARGV: 1 id, 2 token, 3 its new msg, 4 score in retry, 5 when it is due in ms or '',
--       6 '1' if it counts, 7 when the day's counters expire, 8 '1' if this may have run before
-- Returns 1, or 0 if its lease is lost

if not leave_held(KEYS[2], KEYS[3], KEYS[1], ARGV[1], ARGV[2]) then
  local msg, state = unpack(redis.call('HMGET', KEYS[1], 'msg', 'state'))
  if ARGV[8] == '1' and msg == ARGV[3] and state == 'retry' then return 1 end
  return 0
end
redis.call('HSET', KEYS[1], 'msg', ARGV[3], 'state', 'retry')
redis.call('HDEL', KEYS[1], 'pending_since', 'due_ms')
if ARGV[5] ~= '' then redis.call('HSET', KEYS[1], 'due_ms', ARGV[5]) end
redis.call('ZADD', KEYS[4], ARGV[4], ARGV[1])
if ARGV[6] == '1' then
  count_day(KEYS[5], 1, ARGV[7])
  count_day(KEYS[6], 1, ARGV[7])
  add(KEYS[7], 1)
  add(KEYS[8], 1)
end
return 1
