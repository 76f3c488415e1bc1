-- Removes the keep-alives of a pool that is gone; then the whole map when none stands
-- there any more and nobody listens: to a replica that lives its revision may never fall.
-- KEYS: 1 hash of the sink's keep-alives
-- ARGV: 1 channel of that map, then the consumers of the pool
-- Returns 1 if it is gone, else 0

for i = 2, #ARGV do map_del(KEYS[1], ARGV[1], ARGV[i]) end
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.sub(field, 1, 1) ~= '=' then return 0 end
end
if redis.call('PUBSUB', 'NUMSUB', ARGV[1])[2] > 0 then return 0 end
redis.call('DEL', KEYS[1])
return 1
