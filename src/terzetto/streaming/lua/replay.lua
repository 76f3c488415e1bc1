-- Add a dead letter to its stream again, and delete it here.
-- KEYS[1] the key of the stream of dead letters
-- KEYS[2] the stream's key
-- ARGV[1] the dead letter's id
-- ARGV[2] the stream's maximal length, 0 for none
-- Returns the new event's id; nil if there is no such letter; 0 if it is poison,
-- which stays where it is
local letter = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not letter then
    return false
end
local event = {}
local poison = false
for i = 1, #letter[2], 2 do
    local field, value = letter[2][i], letter[2][i + 1]
    if field == 'n' or field == 'p' or field == 't' then
        event[#event + 1] = field
        event[#event + 1] = value
    elseif string.sub(field, 1, 7) == 'origin.' then
        event[#event + 1] = string.sub(field, 8)
        event[#event + 1] = value
    elseif field == 'dead.poison' then
        poison = true
    end
end
if poison then
    return 0
end
local add = {'XADD', KEYS[2]}
if tonumber(ARGV[2]) > 0 then
    add[#add + 1] = 'MAXLEN'
    add[#add + 1] = '~'
    add[#add + 1] = ARGV[2]
end
add[#add + 1] = '*'
for _, part in ipairs(event) do
    add[#add + 1] = part
end
local id = redis.call(unpack(add))
redis.call('XDEL', KEYS[1], ARGV[1])
return id
