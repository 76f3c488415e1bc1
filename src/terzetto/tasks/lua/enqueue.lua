-- Enqueues tasks that may start at once and are neither unique nor in a group.
-- KEYS: 1 pending, from 2 on task hashes
-- ARGV: 1 now in ns, 2 how long the prefix of task keys is, 3 wake channel,
--       then for each task its msg
-- Returns the numbers, from 1, of those whose ids are taken

local skip = tonumber(ARGV[2]) + 1
local ids, refused = {}, {}
for i = 2, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 1 then
    refused[#refused + 1] = i - 1
  else
    redis.call('HSET', KEYS[i], 'msg', ARGV[i + 2], 'state', 'pending', 'pending_since', ARGV[1])
    ids[#ids + 1] = string.sub(KEYS[i], skip)
  end
end
push('LPUSH', KEYS[1], ids, ARGV[3])
return refused
