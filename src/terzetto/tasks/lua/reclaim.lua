-- Puts the tasks of overdue batches back into their groups.
-- KEYS: 1 sets, 2 groups
-- ARGV: 1 now, 2 prefix of group keys, 3 how many batches at most
-- Returns how many

local overdue = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[3])
for _, set in ipairs(overdue) do
  local group = string.match(string.sub(set, #ARGV[2] + 1), '^(.*):[^:]*$')
  local members = redis.call('ZRANGE', set, 0, -1, 'WITHSCORES')
  for i = 1, #members, 2 do
    redis.call('ZADD', ARGV[2] .. group, members[i + 1], members[i])
  end
  if #members > 0 then redis.call('SADD', KEYS[2], group) end
  redis.call('DEL', set)
  redis.call('ZREM', KEYS[1], set)
end
return #overdue
