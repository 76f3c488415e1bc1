-- Takes the oldest pending tasks under new leases.
-- KEYS: 1 pending, 2 paused, 3 active, 4 lease
-- ARGV: 1 end of the lease, 2 how many tasks at most, 3 prefix of task keys,
--       4 start of the tokens, 5 ms of the lease, 6 prefix of the queue's keys,
--       7 '1' if this may have run before and its reply was lost
-- Returns for each task its id and msg; its token is the start and its number, from 1;
--         where there was an id whose task is gone, both are empty

local found = {}
if ARGV[7] == '1' then
  -- What it took then is active under tokens that begin as ours do.
  local held = {}
  for _, id in ipairs(redis.call('LRANGE', KEYS[3], 0, -1)) do
    local msg, token = unpack(redis.call('HMGET', ARGV[3] .. id, 'msg', 'pending_since'))
    if token and string.sub(token, 1, #ARGV[4]) == ARGV[4] then
      held[tonumber(string.sub(token, #ARGV[4] + 1))] = {id, msg}
    end
  end
  for i = 1, next(held) and tonumber(ARGV[2]) or 0 do
    found[2 * i - 1], found[2 * i] = unpack(held[i] or {'', ''})
  end
  if #found > 0 then return found end
end
if redis.call('EXISTS', KEYS[2]) == 1 then return found end
local ids = redis.call('RPOP', KEYS[1], ARGV[2])
if not ids then return found end
local taken, leases = {}, {}
for i, id in ipairs(ids) do
  local task = ARGV[3] .. id
  local msg, lock = unpack(redis.call('HMGET', task, 'msg', 'unique_key'))
  found[2 * i - 1], found[2 * i] = msg and id or '', msg or ''
  if msg then
    taken[#taken + 1] = id
    leases[#leases + 1] = ARGV[1]
    leases[#leases + 1] = id
    redis.call('HSET', task, 'state', 'active', 'pending_since', ARGV[4] .. i)
    if lock and string.sub(lock, 1, #ARGV[6]) == ARGV[6] then renew(lock, id, ARGV[5]) end
  else
    redis.call('DEL', task)
  end
end
if #taken > 0 then
  redis.call('LPUSH', KEYS[3], unpack(taken))
  redis.call('ZADD', KEYS[4], unpack(leases))
end
return found
