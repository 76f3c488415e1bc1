-- Runs, archives or deletes tasks of one state, the oldest first.
-- KEYS: 1 where they are, 2 pending, 3 archived, 4 groups
-- ARGV: 1 'run', 'archive' or 'delete', 2 'list' or 'set', 3 how many at most, 4 prefix of
--       the queue's keys, 5 prefix of task keys, 6 now, 7 now in ns, 8 wake channel,
--       9 score up to which archived tasks are deleted, 10 how many are kept, 11 group or ''
-- Returns how many

local op, ids = ARGV[1], nil
if ARGV[2] == 'list' then
  ids = redis.call('RPOP', KEYS[1], ARGV[3]) or {}
else
  ids = redis.call('ZRANGE', KEYS[1], 0, ARGV[3] - 1)
  redis.call('ZREMRANGEBYRANK', KEYS[1], 0, ARGV[3] - 1)
  if ARGV[11] ~= '' and redis.call('ZCARD', KEYS[1]) == 0 then
    redis.call('SREM', KEYS[4], ARGV[11])
  end
end
local runnable = {}
for _, id in ipairs(ids) do
  local task = ARGV[5] .. id
  if redis.call('EXISTS', task) == 1 then
    if op == 'run' then
      revive(task, ARGV[7])
      runnable[#runnable + 1] = id
    elseif op == 'archive' then
      shelve(task)
      redis.call('ZADD', KEYS[3], ARGV[6], id)
    else
      erase(task, id, ARGV[4])
    end
  end
end
push('LPUSH', KEYS[2], runnable, ARGV[8])
if op == 'archive' then trim(KEYS[3], ARGV[5], ARGV[4], ARGV[9], ARGV[10]) end
return #ids
