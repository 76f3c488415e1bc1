-- What a stream holds at this moment, without the payloads that XINFO STREAM would send.
-- KEYS[1] the stream's key
-- Returns {exists 0/1, first id, last id ever made, entries ever added, length}
if redis.call('EXISTS', KEYS[1]) == 0 then
    return {0, '0-0', '0-0', 0, 0}
end
local info = redis.call('XINFO', 'STREAM', KEYS[1])
local fields = {}
for i = 1, #info, 2 do
    fields[info[i]] = info[i + 1]
end
return {
    1,
    fields['recorded-first-entry-id'],
    fields['last-generated-id'],
    fields['entries-added'],
    fields['length'],
}
