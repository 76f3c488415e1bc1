-- Removes the guards that hold nothing any more, and those that are not times.
-- KEYS: 1 pending-jobs hash
-- ARGV: 1 channel of pending-jobs
-- Returns how many

local removed = 0
local flat = redis.call('HGETALL', KEYS[1])
for i = 1, #flat, 2 do
  if string.sub(flat[i], 1, 1) ~= '=' and not guard_holds(flat[i + 1]) then
    map_del(KEYS[1], ARGV[1], flat[i])
    removed = removed + 1
  end
end
return removed
