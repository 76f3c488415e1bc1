-- Removes the guards that hold nothing any more, and those that are not times; and the homes
-- of workers that are no longer in the pool: peers in Go that bury them know of no homes.
-- KEYS: 1 pending-jobs hash, 2 workers hash, 3 homes
-- ARGV: 1 channel of pending-jobs
-- Returns how many guards

local removed = 0
local flat = redis.call('HGETALL', KEYS[1])
for i = 1, #flat, 2 do
  if string.sub(flat[i], 1, 1) ~= '=' and not guard_holds(flat[i + 1]) then
    map_del(KEYS[1], ARGV[1], flat[i])
    removed = removed + 1
  end
end
for _, worker in ipairs(redis.call('HKEYS', KEYS[3])) do
  if redis.call('HEXISTS', KEYS[2], worker) == 0 then redis.call('HDEL', KEYS[3], worker) end
end
return removed
