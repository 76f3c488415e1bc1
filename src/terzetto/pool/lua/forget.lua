-- Deletes a key of a map, if it still is as it was seen.
-- KEYS: 1 the map's hash
-- ARGV: 1 the map's channel, 2 key, 3 the value that it must still have, or '' for any
-- Returns 1 if deleted, else 0

if ARGV[3] ~= '' and redis.call('HGET', KEYS[1], ARGV[2]) ~= ARGV[3] then return 0 end
return map_del(KEYS[1], ARGV[1], ARGV[2]) and 1 or 0
