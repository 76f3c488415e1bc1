-- Asks the whole pool to shut down.
-- KEYS: 1 shutdown hash
-- ARGV: 1 channel of shutdown, 2 id of the node that asks
-- Returns the id of the node that asked first

local first = redis.call('HGET', KEYS[1], 'shutdown')
if first then return first end
map_set(KEYS[1], ARGV[1], 'shutdown', ARGV[2])
return ARGV[2]
