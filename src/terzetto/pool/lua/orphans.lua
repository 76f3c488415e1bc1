-- Lists the jobs that have a payload but no owner and no dispatch under way, for the
-- one node that holds the lease of this search.
-- KEYS: 1 jobs hash, 2 job-payloads hash, 3 pending-jobs hash, 4 lease
-- ARGV: 1 node id, 2 how long the lease lasts in ms, 3 how many at most
-- Returns the keys, or nil if another node holds the lease

local holder = redis.call('GET', KEYS[4])
if holder and holder ~= ARGV[1] then return false end
redis.call('SET', KEYS[4], ARGV[1], 'PX', ARGV[2])
local owned = {}
local flat = redis.call('HGETALL', KEYS[1])
for i = 1, #flat, 2 do
  if string.sub(flat[i], 1, 1) ~= '=' then
    for _, key in ipairs(list_items(flat[i + 1])) do owned[key] = true end
  end
end
local found, limit = {}, tonumber(ARGV[3])
for _, key in ipairs(redis.call('HKEYS', KEYS[2])) do
  if #found >= limit then break end
  if string.sub(key, 1, 1) ~= '=' and not owned[key]
    and not guard_holds(redis.call('HGET', KEYS[3], key)) then
    found[#found + 1] = key
  end
end
return found
