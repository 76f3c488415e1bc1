-- Move a pending entry to the dead letters: written there and acknowledged here, or neither.
-- KEYS[1] the stream's key
-- KEYS[2] the key of the stream of dead letters
-- ARGV[1] the group
-- ARGV[2] the consumer; an entry of another is left alone; "" where nobody has entries
-- ARGV[3] the entry's id
-- ARGV[4...] fields that say why, flat: name, value, name, value...
-- Returns the dead letter's id, or nil if the entry was not this consumer's any more,
-- as when the stream or the group is gone
local id = ARGV[3]
if ARGV[2] ~= '' then
    local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1], id, id, 1, ARGV[2])
    if pending.err and not string.find(pending.err, 'NOGROUP', 1, true) then
        return pending
    end
    if pending.err or #pending == 0 then
        return false
    end
end
local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
local buried = false
if entry then
    -- A dead letter is an event like any other, so that every peer can read it.
    local letter = {'n', '', 'p', ''}
    local place = {n = 2, p = 4}
    for i = 1, #entry[2], 2 do
        local field, value = entry[2][i], entry[2][i + 1]
        if place[field] then
            letter[place[field]] = value
        elseif field == 't' then
            letter[#letter + 1] = 't'
            letter[#letter + 1] = value
        elseif #letter < 4000 then -- a call takes no more than some 8,000 arguments
            letter[#letter + 1] = 'origin.' .. field
            letter[#letter + 1] = value
        end
    end
    for i = 4, #ARGV do
        letter[#letter + 1] = ARGV[i]
    end
    buried = redis.call('XADD', KEYS[2], '*', unpack(letter))
end
redis.call('XACK', KEYS[1], ARGV[1], id)
return buried
