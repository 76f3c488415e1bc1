-- Writes a scheduled task anew, unless it has changed.
-- KEYS: 1 task hash
-- ARGV: 1 the msg that was read, 2 the new msg
-- Returns 1, 0 if there is no such task, -1 if it is not scheduled, -2 if it has changed

local state, msg = unpack(redis.call('HMGET', KEYS[1], 'state', 'msg'))
if not state then return 0 end
if state ~= 'scheduled' then return -1 end
if msg ~= ARGV[1] then return -2 end
redis.call('HSET', KEYS[1], 'msg', ARGV[2])
return 1
