-- Sends an orphaned job again, once: its guard keeps other nodes from doing so too.
-- KEYS: 1 jobs hash, 2 job-payloads hash, 3 pending-jobs hash, 4 pool stream
-- ARGV: 1 channel of pending-jobs, 2 job key, 3 id of this node, 4 creation time as
--       8 bytes, 5 how long the guard holds in us
-- Returns 1, or 0 if it is no orphan (any more)

local payload = redis.call('HGET', KEYS[2], ARGV[2])
if not payload or owner_in(lists_of(KEYS[1]), ARGV[2], '') then return 0 end
if guard_holds(redis.call('HGET', KEYS[3], ARGV[2])) then return 0 end
map_set(KEYS[3], ARGV[1], ARGV[2], decimal(now_us() + tonumber(ARGV[5])) .. '000')
redis.call('XADD', KEYS[4], '*', 'n', 'j', 'p', requeued_job(ARGV[2], ARGV[3], payload, ARGV[4]))
return 1
