-- Moves tasks that are due to pending, or to their group.
-- KEYS: 1 where they wait, 2 pending, 3 groups
-- ARGV: 1 now in ms, 2 now in ns, 3 how many at most, 4 prefix of task keys,
--       5 prefix of group keys, 6 wake channel
-- Returns {how many were moved, ms at which the next is due or ''}

local now = tonumber(ARGV[1])
local moved, ids, soonest = 0, {}, nil

-- A score is a whole second, never before the task is due; due_ms says when exactly.
local function due(id, score)
  return tonumber(redis.call('HGET', ARGV[4] .. id, 'due_ms') or score * 1000)
end

local waiting = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', math.ceil(now / 1000), 'WITHSCORES',
  'LIMIT', 0, ARGV[3])
for i = 1, #waiting, 2 do
  local id, at = waiting[i], due(waiting[i], tonumber(waiting[i + 1]))
  if at <= now then
    local task = ARGV[4] .. id
    local known, group = unpack(redis.call('HMGET', task, 'state', 'group'))
    redis.call('ZREM', KEYS[1], id)
    redis.call('HDEL', task, 'due_ms')
    if not known then
      redis.call('DEL', task)
    elseif group and group ~= '' then
      redis.call('ZADD', ARGV[5] .. group, math.floor(now / 1000), id)
      redis.call('SADD', KEYS[3], group)
      redis.call('HSET', task, 'state', 'aggregating')
    else
      redis.call('HSET', task, 'state', 'pending', 'pending_since', ARGV[2])
      ids[#ids + 1] = id
    end
    moved = moved + 1
  end
end
push('LPUSH', KEYS[2], ids, ARGV[6])

local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if first[2] then
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], first[2], first[2], 'LIMIT', 0, 100)) do
    local at = due(id, tonumber(first[2]))
    if not soonest or at < soonest then soonest = at end
  end
end
return {moved, soonest and string.format('%.0f', soonest) or ''}
