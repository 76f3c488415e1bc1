-- Start the idle time of pending entries again, for those that a consumer still has.
-- KEYS[1] the stream's key
-- ARGV[1] the group
-- ARGV[2] the consumer that has them
-- ARGV[3] the consumer that has them from now on, mostly the same
-- ARGV[4...] the entries' ids
-- Returns the ids that the consumer still had; none if the stream or the group is gone
local kept = {}
for i = 4, #ARGV do
    local id = ARGV[i]
    local entry = redis.pcall('XPENDING', KEYS[1], ARGV[1], id, id, 1, ARGV[2])
    if entry.err then
        return string.find(entry.err, 'NOGROUP', 1, true) and kept or entry
    end
    if #entry == 1 then
        redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[3], '0', id, 'JUSTID')
        kept[#kept + 1] = id
    end
end
return kept
