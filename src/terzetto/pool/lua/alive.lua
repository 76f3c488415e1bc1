-- Gives the signs of life of a node and its workers.
-- KEYS: 1 node-keepalive hash, 2 workers hash, 3 worker-keepalive hash
-- ARGV: 1 channel of node-keepalive, 2 channel of worker-keepalive, 3 node id,
--       then for each worker its id and creation time
-- Returns {server time in us as text, revision of the map of workers,
--          then for each worker 1, or 0 if it is no longer in the pool}

local now = decimal(now_us())
local rev = redis.call('HGET', KEYS[2], '=rev')
local reply = {now, tonumber(rev) or 0}
map_set(KEYS[1], ARGV[1], ARGV[3], now .. '000')
for i = 4, #ARGV, 2 do
  local value = redis.call('HGET', KEYS[2], ARGV[i])
  local known = value == ARGV[i + 1] or value == '-'
  if known then map_set(KEYS[3], ARGV[2], ARGV[i], now .. '000') end
  reply[#reply + 1] = known and 1 or 0
end
return reply
