-- Estimates the memory of a queue: its containers, and some of the tasks of each.
-- KEYS: 1 pending, 2 active, 3 scheduled, 4 retry, 5 archived, 6 completed, 7 groups, 8 sets
-- ARGV: 1 prefix of task keys, 2 prefix of group keys
-- Returns bytes

local function usage(key) return redis.call('MEMORY', 'USAGE', key) or 0 end

local function of_tasks(ids, count)
  if #ids == 0 then return 0 end
  local total = 0
  for _, id in ipairs(ids) do total = total + usage(ARGV[1] .. id) end
  return total / #ids * count
end

local function of_set(key)
  return usage(key) + of_tasks(redis.call('ZRANGE', key, 0, 19), redis.call('ZCARD', key))
end

local total = 0
for i = 1, 2 do
  total = total + usage(KEYS[i])
    + of_tasks(redis.call('LRANGE', KEYS[i], -20, -1), redis.call('LLEN', KEYS[i]))
end
for i = 3, 6 do total = total + of_set(KEYS[i]) end
local groups = redis.call('SMEMBERS', KEYS[7])
local sampled = 0
for i = 1, math.min(#groups, 20) do sampled = sampled + of_set(ARGV[2] .. groups[i]) end
if #groups > 0 then total = total + usage(KEYS[7]) + sampled / math.min(#groups, 20) * #groups end
for _, set in ipairs(redis.call('ZRANGE', KEYS[8], 0, 19)) do total = total + of_set(set) end
return math.floor(total)
