-- Deletes a node's sign of life.
-- KEYS: 1 node-keepalive hash
-- ARGV: 1 channel of node-keepalive, 2 node id, 3 the sign that it must still be, or ''
-- Returns 1 if deleted, else 0

if ARGV[3] ~= '' and redis.call('HGET', KEYS[1], ARGV[2]) ~= ARGV[3] then return 0 end
return map_del(KEYS[1], ARGV[1], ARGV[2]) and 1 or 0
