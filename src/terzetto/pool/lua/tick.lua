-- Claims a tick: moves a ticker's entry on, if it still is as it was seen.
-- KEYS: 1 tickers hash, 2 hash of the last claims by ticker
-- ARGV: 1 channel of tickers, 2 full name of the ticker, 3 the entry as it was seen,
--       4 the next entry, 5 a name of this claim alone
-- Returns 1 if the tick is this claim's, also when it is asked again after a lost reply,
--         else the entry as it is, nil if there is none

if redis.call('HGET', KEYS[2], ARGV[2]) == ARGV[5] then return 1 end
local entry = redis.call('HGET', KEYS[1], ARGV[2])
if entry ~= ARGV[3] then return entry end
map_set(KEYS[1], ARGV[1], ARGV[2], ARGV[4])
redis.call('HSET', KEYS[2], ARGV[2], ARGV[5])
return 1
