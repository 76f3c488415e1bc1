-- Removes what is left of a pool that was shut down: keys and all when no other node
-- is there, else so that the replicas of the others go on. All are told by a message.
-- KEYS: 1 node-keepalive hash, 2 shutdown hash, then the other maps' hashes, last what
--       is no map: streams, leases, counters
-- ARGV: 1 id of this node, or '' if it stays in the pool, then the channels of the maps in the order of KEYS
-- Returns 1 if nothing is left, 0 if other nodes were told, -1 if no shutdown is on

if redis.call('HEXISTS', KEYS[2], 'shutdown') == 0 then return -1 end
local alone = ARGV[1] ~= ''
for _, id in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.sub(id, 1, 1) ~= '=' and id ~= ARGV[1] then alone = false end
end
local maps = #ARGV - 1
for i = 1, maps do
  local rev = redis.call('HGET', KEYS[i], '=rev')
  if redis.call('DEL', KEYS[i]) == 1 then
    local next = decimal((tonumber(rev) or 0) + 1)
    if not alone then redis.call('HSET', KEYS[i], '=rev', next, '=kind', 'destroy') end
    redis.call('PUBLISH', ARGV[i + 1], 'destroy:' .. next)
  end
end
for i = maps + 1, #KEYS do redis.call('DEL', KEYS[i]) end
return alone and 1 or 0
