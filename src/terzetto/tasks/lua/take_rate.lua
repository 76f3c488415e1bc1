-- Takes one of the turns of a scope whose rate is limited.
-- KEYS: 1 when the next turn would come if none were kept back, in us
-- ARGV: 1 now in us, 2 us between turns, 3 how many may come at once
-- Returns 0, or the us until there is a turn

local now, step = tonumber(ARGV[1]), tonumber(ARGV[2])
local at = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now)
local wait = at - now - step * (tonumber(ARGV[3]) - 1)
if wait > 0 then return math.ceil(wait) end
redis.call('SET', KEYS[1], string.format('%.0f', at + step), 'PX',
  string.format('%.0f', math.ceil((at + step - now) / 1000) + 1000))
return 0
