-- Take over entries that have been pending for too long, whoever has them.
-- KEYS[1] the stream's key
-- ARGV[1] the group
-- ARGV[2] the consumer that takes them
-- ARGV[3] how long they must have been idle, in milliseconds
-- ARGV[4] how many at most
-- ARGV[5] after how many bytes of fields to take no further one
-- Returns {1 if there may be more, else 0; {{id, deliveries with this one, fields}...}};
-- entries that were deleted or trimmed while pending leave the group and are not returned
local idle = redis.call(
    'XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[3], '-', '+', ARGV[4]
)
local more = #idle == tonumber(ARGV[4]) and 1 or 0
local claimed = {}
local bytes = 0
for _, entry in ipairs(idle) do
    if bytes >= tonumber(ARGV[5]) then
        more = 1
        break
    end
    local found = redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], '0', entry[1])[1]
    if found then
        claimed[#claimed + 1] = {found[1], entry[4] + 1, found[2]}
        for _, part in ipairs(found[2]) do
            bytes = bytes + #part
        end
    end
end
return {more, claimed}
