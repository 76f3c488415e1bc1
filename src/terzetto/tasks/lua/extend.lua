-- Puts off the end of leases, and renews the locks of their tasks.
-- KEYS: 1 lease, from 2 on task hashes
-- ARGV: 1 new end, 2 how long the prefix of task keys is, 3 ms of the lease,
--       4 prefix of the queue's keys, then for each task its token
-- Returns the numbers, from 1, of those that are lost

local skip, lost = tonumber(ARGV[2]) + 1, {}
for i = 2, #KEYS do
  local id = string.sub(KEYS[i], skip)
  local token, lock = unpack(redis.call('HMGET', KEYS[i], 'pending_since', 'unique_key'))
  if token == ARGV[i + 3] and redis.call('ZSCORE', KEYS[1], id) then
    redis.call('ZADD', KEYS[1], ARGV[1], id)
    if lock and string.sub(lock, 1, #ARGV[4]) == ARGV[4] then renew(lock, id, ARGV[3]) end
  else
    lost[#lost + 1] = i - 1
  end
end
return lost
