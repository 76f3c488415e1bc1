-- Take leave of a group: hand back all that the consumer has pending, and delete
-- the consumer if that was nothing. A consumer is never deleted with entries
-- pending, for the server would drop these.
-- KEYS[1] the stream's key
-- ARGV[1] the group
-- ARGV[2] the consumer
-- ARGV[3] the idle time that the entries get, in milliseconds
-- Returns how many entries are left pending; 0 means that the consumer is gone
if redis.call('EXISTS', KEYS[1]) == 0 or redis.pcall('XPENDING', KEYS[1], ARGV[1]).err then
    return 0 -- the stream or the group is gone, and the consumer with it
end
local left = 0
local from = '-'
while true do
    local pending = redis.call('XPENDING', KEYS[1], ARGV[1], from, '+', 500, ARGV[2])
    for _, entry in ipairs(pending) do
        local kept = redis.call(
            'XCLAIM', KEYS[1], ARGV[1], ARGV[2], '0', entry[1], 'IDLE', ARGV[3], 'JUSTID'
        )
        left = left + #kept
        from = '(' .. entry[1]
    end
    if #pending < 500 then
        break
    end
end
if left == 0 then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
end
return left
