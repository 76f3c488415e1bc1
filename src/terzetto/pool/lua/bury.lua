-- Takes over the jobs of a dead worker, then its entries, if nothing changed since it
-- was found dead. With many jobs it is called until none remain.
-- KEYS: 1 workers hash, 2 worker-keepalive hash, 3 cleanup hash, 4 jobs hash,
--       5 job-payloads hash, 6 pool stream, 7 homes
-- ARGV: 1 to 4 channels of the first four, 5 worker id, 6 its keep-alive or '',
--       7 its clean-up lock or '', 8 id of this node, 9 creation time as 8 bytes,
--       10 how many jobs at most
-- Returns {1, moved} done, {2, moved} more remain, {0, 0} it gave a sign of life

if (redis.call('HGET', KEYS[2], ARGV[5]) or '') ~= ARGV[6] then return {0, 0} end
if (redis.call('HGET', KEYS[3], ARGV[5]) or '') ~= ARGV[7] then return {0, 0} end

local moved, kept, limit = 0, {}, tonumber(ARGV[10])
local stored = redis.call('HGET', KEYS[4], ARGV[5])
local keys = stored and list_items(stored) or {}
local lists = lists_of(KEYS[4])
for i, key in ipairs(keys) do
  if i > limit then
    kept[#kept + 1] = key
  else
    -- Another worker may have taken the job over already: then it is not sent again.
    local payload = redis.call('HGET', KEYS[5], key)
    if payload and not owner_in(lists, key, ARGV[5]) then
      redis.call('XADD', KEYS[6], '*', 'n', 'j',
        'p', requeued_job(key, ARGV[8], payload, ARGV[9]))
      moved = moved + 1
    end
  end
end
if #kept > 0 then
  map_set(KEYS[4], ARGV[4], ARGV[5], cjson.encode(kept))
  return {2, moved}
end
redis.call('HDEL', KEYS[7], ARGV[5])
map_del(KEYS[1], ARGV[1], ARGV[5])
map_del(KEYS[2], ARGV[2], ARGV[5])
map_del(KEYS[3], ARGV[3], ARGV[5])
map_del(KEYS[4], ARGV[4], ARGV[5])
return {1, moved}
