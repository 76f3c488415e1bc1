-- Takes over tasks whose leases ran out.
-- KEYS: 1 lease, 2 active
-- ARGV: 1 score up to which a lease ran out, 2 that score for foreign ones, 3 end of the
--       new leases, 4 how many at most, 5 prefix of task keys, 6 start of the tokens,
--       7 how all tokens of ours start, 8 '1' if this may have run before
-- Returns as dequeue.lua

local found = {}
if ARGV[8] == '1' then
  local held = {}
  for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
    local msg, token = unpack(redis.call('HMGET', ARGV[5] .. id, 'msg', 'pending_since'))
    if token and string.sub(token, 1, #ARGV[6]) == ARGV[6] then
      held[tonumber(string.sub(token, #ARGV[6] + 1))] = {id, msg}
    end
  end
  for i = 1, next(held) and tonumber(ARGV[4]) or 0 do
    found[2 * i - 1], found[2 * i] = unpack(held[i] or {'', ''})
  end
  if #found > 0 then return found end
end
local over = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'WITHSCORES', 'LIMIT', 0, ARGV[4])
for i = 1, #over, 2 do
  local id, task = over[i], ARGV[5] .. over[i]
  local msg, token = unpack(redis.call('HMGET', task, 'msg', 'pending_since'))
  if not msg then
    redis.call('LREM', KEYS[2], 0, id)
    redis.call('ZREM', KEYS[1], id)
    redis.call('DEL', task)
  else
    local ours = token and string.sub(token, 1, #ARGV[7]) == ARGV[7]
    if ours or tonumber(over[i + 1]) <= tonumber(ARGV[2]) then
      found[#found + 1] = id
      found[#found + 1] = msg
      redis.call('HSET', task, 'pending_since', ARGV[6] .. #found / 2)
      redis.call('ZADD', KEYS[1], ARGV[3], id)
    end
  end
end
return found
