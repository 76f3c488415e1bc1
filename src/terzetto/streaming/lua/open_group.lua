-- Make a consumer group, unless it is there, and a consumer in it.
-- KEYS[1] the stream's key; the stream is made if it is missing
-- ARGV[1] the group
-- ARGV[2] where a new group begins if the stream was missing
-- ARGV[3] where a new group begins if the stream was there
-- ARGV[4] the consumer
-- Returns {group made 0/1, the group's last delivered id}
local start = ARGV[3]
if redis.call('EXISTS', KEYS[1]) == 0 then
    start = ARGV[2]
end
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], start, 'MKSTREAM')
local new = 1
if made.err then
    if not string.find(made.err, 'BUSYGROUP', 1, true) then
        return made
    end
    new = 0
end
redis.call('XGROUP', 'CREATECONSUMER', KEYS[1], ARGV[1], ARGV[4])
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local fields = {}
    for i = 1, #group, 2 do
        fields[group[i]] = group[i + 1]
    end
    if fields['name'] == ARGV[1] then
        return {new, fields['last-delivered-id']}
    end
end
return redis.error_reply('ERR the group was made and is not there')
