-- Deletes completed and archived tasks whose time is over.
-- KEYS: 1 completed, 2 archived
-- ARGV: 1 now, 2 how many completed ones at most, 3 prefix of task keys, 4 prefix of the
--       queue's keys, 5 score up to which archived tasks are deleted, 6 how many are kept
-- Returns how many were deleted

local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
for _, id in ipairs(ids) do
  erase(ARGV[3] .. id, id, ARGV[4])
  redis.call('ZREM', KEYS[1], id)
end
return #ids + trim(KEYS[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6])
