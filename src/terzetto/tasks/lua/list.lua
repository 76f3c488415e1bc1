-- Lists tasks of one state.
-- KEYS: 1 where they are, 2 lease, 3 sets
-- ARGV: 1 'pending', 'active', 'group' or 'set', 2 first, 3 last, counted from 0, 4 prefix of
--       task keys, 5 prefix of the queue's keys, 6 group or ''
-- Returns for each task: id, msg, result, ms at which it is due or '', end of its lease or ''

local kind, first, last = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local ids, scores = {}, {}
if kind == 'pending' or kind == 'active' then
  -- The next to run, or the one that runs longest, is the last of the list.
  local found = redis.call('LRANGE', KEYS[1], -last - 1, -first - 1)
  for i = #found, 1, -1 do ids[#ids + 1] = found[i] end
elseif kind == 'set' then
  local found = redis.call('ZRANGE', KEYS[1], first, last, 'WITHSCORES')
  for i = 1, #found, 2 do
    ids[#ids + 1] = found[i]
    scores[found[i]] = found[i + 1]
  end
else
  local waiting = redis.call('ZCARD', KEYS[1])
  if first < waiting then ids = redis.call('ZRANGE', KEYS[1], first, last) end
  local before = waiting
  for _, set in ipairs(sets_of(KEYS[3], ARGV[5], ARGV[6])) do
    local size = redis.call('ZCARD', set)
    local from, to = math.max(first - before, 0), last - before
    if to >= 0 and from < size then
      for _, id in ipairs(redis.call('ZRANGE', set, from, to)) do ids[#ids + 1] = id end
    end
    before = before + size
  end
end
local reply = {}
for _, id in ipairs(ids) do
  local msg, result, due = unpack(redis.call('HMGET', ARGV[4] .. id, 'msg', 'result', 'due_ms'))
  local lease = kind == 'active' and redis.call('ZSCORE', KEYS[2], id)
  if scores[id] and not due then due = string.format('%.0f', tonumber(scores[id]) * 1000) end
  reply[#reply + 1] = id
  reply[#reply + 1] = msg
  reply[#reply + 1] = result
  reply[#reply + 1] = due or ''
  reply[#reply + 1] = lease or ''
end
return reply
