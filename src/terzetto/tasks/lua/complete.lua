-- Writes that tasks succeeded.
-- KEYS: 1 active, 2 lease, 3 completed, 4 processed on this day, 5 processed, then the
--       hash of each task, then the locks of those that have one
-- ARGV: 1 how long the prefix of task keys is, 2 when the day's counter expires,
--       3 start of the channels of outcomes, 4 '1' if this may have run before,
--       5 how many tasks there are, then the token of each; then for each task that is
--       kept, has a result or a lock: its number, from 1, score in completed or '' (it is
--       deleted), its new msg, '1' if there is a result, the result, '1' if it has a lock
-- Returns for each task 1, or 0 if its lease is lost

local skip, count, replies = tonumber(ARGV[1]) + 1, tonumber(ARGV[5]), {}
local more, locks, ids, deleted = {}, {}, {}, {}
local lock = 5 + count
for a = 6 + count, #ARGV, 6 do
  local number = tonumber(ARGV[a])
  more[number] = a
  if ARGV[a + 5] == '1' then
    lock = lock + 1
    locks[number] = KEYS[lock]
  end
end
for i = 1, count do
  local task, a = KEYS[5 + i], more[i]
  local id, score, msg, result = string.sub(task, skip), '', '', nil
  if a then
    score, msg = ARGV[a + 1], ARGV[a + 2]
    if ARGV[a + 3] == '1' then result = ARGV[a + 4] end
  end
  local token, watched = unpack(redis.call('HMGET', task, 'pending_since', 'watched'))
  if token == ARGV[5 + i] and redis.call('LREM', KEYS[1], -1, id) == 1 then
    ids[#ids + 1] = id
    if watched then
      local told = result or redis.call('HGET', task, 'result')
      redis.call('PUBLISH', ARGV[3] .. id, (told and 'C' or 'c') .. (told or ''))
    end
    if score == '' then
      deleted[#deleted + 1] = task
    else
      redis.call('HSET', task, 'msg', msg, 'state', 'completed')
      if result then redis.call('HSET', task, 'result', result) end
      redis.call('HDEL', task, 'pending_since', 'due_ms', 'watched')
      redis.call('ZADD', KEYS[3], score, id)
    end
    if locks[i] then unlock(locks[i], id) end
    replies[i] = 1
  elseif ARGV[4] == '1' and (redis.call('HGET', task, 'msg') or '') == msg then
    replies[i] = 1
  else
    replies[i] = 0
  end
end
if #deleted > 0 then redis.call('DEL', unpack(deleted)) end
if #ids > 0 then
  redis.call('ZREM', KEYS[2], unpack(ids))
  count_day(KEYS[4], #ids, ARGV[2])
  add(KEYS[5], #ids)
end
return replies
