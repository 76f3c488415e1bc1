-- Gives the signs of life of a node and its workers, and says where these are told of jobs.
-- KEYS: 1 node-keepalive hash, 2 workers hash, 3 worker-keepalive hash, 4 homes
-- ARGV: 1 channel of node-keepalive, 2 channel of worker-keepalive, 3 node id, 4 home of its
--       workers, then for each worker its id and creation time
-- Returns {server time in us as text, revision of the map of workers, that of node-keepalive,
--          then for each worker 1, or 0 if it is no longer in the pool}

local now = decimal(now_us())
local rev = redis.call('HGET', KEYS[2], '=rev')
map_set(KEYS[1], ARGV[1], ARGV[3], now .. '000')
local reply = {now, tonumber(rev) or 0, tonumber(redis.call('HGET', KEYS[1], '=rev'))}
for i = 5, #ARGV, 2 do
  local value = redis.call('HGET', KEYS[2], ARGV[i])
  local known = value == ARGV[i + 1] or value == '-'
  if known then
    map_set(KEYS[3], ARGV[2], ARGV[i], now .. '000')
    redis.call('HSET', KEYS[4], ARGV[i], ARGV[4])
  end
  reply[#reply + 1] = known and 1 or 0
end
return reply
