-- Make pending entries look idle, so that an instance claims them now or soon.
-- KEYS[1] the stream's key
-- ARGV[1] the group
-- ARGV[2] the consumer that gives them back; entries of others are left alone
-- ARGV[3] the idle time that they get, in milliseconds
-- ARGV[4] 1 if this delivery shall not count, because nobody has seen the event
-- ARGV[5...] the entries' ids
-- Returns how many were handed back; none if the stream or the group is gone
local back = 0
for i = 5, #ARGV do
    local id = ARGV[i]
    local found = redis.pcall('XPENDING', KEYS[1], ARGV[1], id, id, 1, ARGV[2])
    if found.err then
        return string.find(found.err, 'NOGROUP', 1, true) and back or found
    end
    local entry = found[1]
    if entry then
        local deliveries = math.max(entry[4] - tonumber(ARGV[4]), 0)
        redis.call(
            'XCLAIM', KEYS[1], ARGV[1], ARGV[2], '0', id,
            'IDLE', ARGV[3], 'RETRYCOUNT', deliveries, 'JUSTID'
        )
        back = back + 1
    end
end
return back
