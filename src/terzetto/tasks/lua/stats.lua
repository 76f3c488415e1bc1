-- Counts the tasks of a queue by state.
-- KEYS: 1 pending, 2 active, 3 scheduled, 4 retry, 5 archived, 6 completed, 7 groups, 8 sets,
--       9 paused, 10 processed on this day, 11 failed on this day, 12 processed, 13 failed
-- ARGV: 1 prefix of task keys, 2 prefix of group keys
-- Returns {pending, active, scheduled, retry, archived, completed, aggregating, groups,
--          paused 0/1, the four counters as text, pending_since of the oldest or ''}

local aggregating, names = 0, {}
for _, group in ipairs(redis.call('SMEMBERS', KEYS[7])) do
  names[group] = true
  aggregating = aggregating + redis.call('ZCARD', ARGV[2] .. group)
end
for _, set in ipairs(redis.call('ZRANGE', KEYS[8], 0, -1)) do
  local group = string.match(string.sub(set, #ARGV[2] + 1), '^(.*):[^:]*$')
  if group then names[group] = true end
  aggregating = aggregating + redis.call('ZCARD', set)
end
local groups = 0
for _ in pairs(names) do groups = groups + 1 end
local reply = {redis.call('LLEN', KEYS[1]), redis.call('LLEN', KEYS[2])}
for i = 3, 6 do reply[i] = redis.call('ZCARD', KEYS[i]) end
reply[7], reply[8], reply[9] = aggregating, groups, redis.call('EXISTS', KEYS[9])
for i = 10, 13 do reply[i] = redis.call('GET', KEYS[i]) or '0' end
local oldest = redis.call('LINDEX', KEYS[1], -1)
reply[14] = oldest and redis.call('HGET', ARGV[1] .. oldest, 'pending_since') or ''
return reply
