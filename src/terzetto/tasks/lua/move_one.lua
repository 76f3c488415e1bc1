-- Runs, archives or deletes one task.
-- KEYS: 1 task hash, 2 pending, 3 archived, 4 groups, 5 sets
-- ARGV: 1 id, 2 'run', 'archive' or 'delete', 3 prefix of the queue's keys, 4 prefix of task
--       keys, 5 now, 6 now in ns, 7 wake channel, 8 score up to which archived tasks are
--       deleted, 9 how many are kept
-- Returns the state that it was in, after '!' if nothing was done, or '' if there is none

local id, op = ARGV[1], ARGV[2]
local state, group = unpack(redis.call('HMGET', KEYS[1], 'state', 'group'))
if not state then return '' end
if state == 'active' or (op == 'run' and state == 'pending')
    or (op == 'archive' and state == 'archived') then
  return '!' .. state
end
-- One that is not where its state says is put right by what is done to it.
if state == 'pending' then
  redis.call('LREM', KEYS[2], 0, id)
elseif state == 'aggregating' and group then
  local waiting = ARGV[3] .. 'g:' .. group
  if redis.call('ZREM', waiting, id) == 0 then
    for _, set in ipairs(sets_of(KEYS[5], ARGV[3], group)) do
      if redis.call('ZREM', set, id) == 1 and redis.call('ZCARD', set) == 0 then
        redis.call('ZREM', KEYS[5], set)
      end
    end
  end
  if redis.call('ZCARD', waiting) == 0 then redis.call('SREM', KEYS[4], group) end
else
  redis.call('ZREM', ARGV[3] .. state, id)
end
if op == 'run' then
  revive(KEYS[1], ARGV[6])
  push('LPUSH', KEYS[2], {id}, ARGV[7])
elseif op == 'archive' then
  shelve(KEYS[1])
  redis.call('ZADD', KEYS[3], ARGV[5], id)
  trim(KEYS[3], ARGV[4], ARGV[3], ARGV[8], ARGV[9])
else
  erase(KEYS[1], id, ARGV[3])
end
return state
