-- Take over entries that have been pending for too long, whoever has them.
-- KEYS[1] the stream's key
-- ARGV[1] the group
-- ARGV[2] the consumer that takes them
-- ARGV[3] how long they must have been idle, in milliseconds
-- ARGV[4] how many at most
-- Returns {{id, deliveries with this one, fields}...}; entries that were deleted
-- or trimmed while pending leave the group and are not returned
local idle = redis.call(
    'XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[3], '-', '+', ARGV[4]
)
if #idle == 0 then
    return {}
end
local claim = {'XCLAIM', KEYS[1], ARGV[1], ARGV[2], '0'}
local deliveries = {}
for _, entry in ipairs(idle) do
    claim[#claim + 1] = entry[1]
    deliveries[entry[1]] = entry[4] + 1
end
local claimed = {}
for _, entry in ipairs(redis.call(unpack(claim))) do
    claimed[#claimed + 1] = {entry[1], deliveries[entry[1]], entry[2]}
end
return claimed
