-- Destroy a group that has nothing pending.
-- KEYS[1] the stream's key
-- ARGV[1] the group
-- Returns 1 if it is gone, 0 if entries are pending and it stays
if redis.call('EXISTS', KEYS[1]) == 0 then
    return 1
end
local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1])
if pending.err then
    return 1
end
if pending[1] > 0 then
    return 0
end
redis.call('XGROUP', 'DESTROY', KEYS[1], ARGV[1])
return 1
