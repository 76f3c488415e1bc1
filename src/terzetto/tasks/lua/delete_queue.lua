-- Deletes some of the tasks of a queue; when there are none left, all that it has.
-- KEYS: 1 pending, 2 active, 3 scheduled, 4 retry, 5 archived, 6 completed, 7 groups, 8 sets,
--       9 lease, then all others that go with the last task
-- ARGV: 1 '1' if it may hold tasks, 2 prefix of the queue's keys, 3 prefix of task keys,
--       4 how many at most
-- Returns 1 all is gone, 2 some remain, -1 it is not empty, -2 tasks are running

if redis.call('LLEN', KEYS[2]) > 0 then return ARGV[1] == '1' and -2 or -1 end
local places = {}
for i = 3, 6 do places[#places + 1] = KEYS[i] end
for _, group in ipairs(redis.call('SMEMBERS', KEYS[7])) do
  places[#places + 1] = ARGV[2] .. 'g:' .. group
end
for _, set in ipairs(redis.call('ZRANGE', KEYS[8], 0, -1)) do places[#places + 1] = set end
if ARGV[1] ~= '1' then
  if redis.call('LLEN', KEYS[1]) > 0 then return -1 end
  for _, place in ipairs(places) do if redis.call('ZCARD', place) > 0 then return -1 end end
end
local left = tonumber(ARGV[4])
local function remove(ids)
  for _, id in ipairs(ids) do erase(ARGV[3] .. id, id, ARGV[2]) end
  left = left - #ids
  return #ids
end
remove(redis.call('RPOP', KEYS[1], left) or {})
for _, place in ipairs(places) do
  if left > 0 then
    local count = remove(redis.call('ZRANGE', place, 0, left - 1))
    if count > 0 then redis.call('ZREMRANGEBYRANK', place, 0, count - 1) end
  end
end
if left <= 0 then return 2 end
for _, key in ipairs(KEYS) do redis.call('DEL', key) end
return 1
