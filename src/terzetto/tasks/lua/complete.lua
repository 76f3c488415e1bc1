-- Writes that tasks succeeded.
-- KEYS: 1 active, 2 lease, 3 completed, 4 processed on this day, 5 processed, then for
--       each task its hash and its lock (without one: its hash again)
-- ARGV: 1 how long the prefix of task keys is, 2 when the day's counter expires,
--       3 start of the channels of outcomes, 4 '1' if this may have run before,
--       then for each task: token, score in completed or '' (it is deleted), its new
--       msg, '1' if there is a result, the result
-- Returns for each task 1, or 0 if its lease is lost

local skip, replies, done = tonumber(ARGV[1]) + 1, {}, 0
for i = 6, #KEYS, 2 do
  local task, lock, a = KEYS[i], KEYS[i + 1], 5 + (i - 6) / 2 * 5
  local id, msg = string.sub(task, skip), ARGV[a + 2]
  local token, watched, result = unpack(
    redis.call('HMGET', task, 'pending_since', 'watched', 'result'))
  if token == ARGV[a] and leave(KEYS[1], KEYS[2], id) then
    if ARGV[a + 3] == '1' then result = ARGV[a + 4] end
    if watched then redis.call('PUBLISH', ARGV[3] .. id, (result and 'C' or 'c') .. (result or '')) end
    if ARGV[a + 1] == '' then
      redis.call('DEL', task)
    else
      redis.call('HSET', task, 'msg', msg, 'state', 'completed')
      if ARGV[a + 3] == '1' then redis.call('HSET', task, 'result', result) end
      redis.call('HDEL', task, 'pending_since', 'due_ms', 'watched')
      redis.call('ZADD', KEYS[3], ARGV[a + 1], id)
    end
    if lock ~= task then unlock(lock, id) end
    done = done + 1
    replies[#replies + 1] = 1
  elseif ARGV[4] == '1' and (redis.call('HGET', task, 'msg') or '') == msg then
    replies[#replies + 1] = 1
  else
    replies[#replies + 1] = 0
  end
end
if done > 0 then
  count_day(KEYS[4], done, ARGV[2])
  add(KEYS[5], done)
end
return replies
