-- Gives a task back, next to be taken.
-- KEYS: 1 task hash, 2 active, 3 lease, 4 pending
-- ARGV: 1 id, 2 token, 3 now in ns, 4 wake channel, 5 '1' if this may have run before
-- Returns 1, or 0 if its lease is lost

if not leave_held(KEYS[2], KEYS[3], KEYS[1], ARGV[1], ARGV[2]) then
  if ARGV[5] == '1' and redis.call('HGET', KEYS[1], 'pending_since') == ARGV[3] then return 1 end
  return 0
end
redis.call('HSET', KEYS[1], 'state', 'pending', 'pending_since', ARGV[3])
push('RPUSH', KEYS[4], {ARGV[1]}, ARGV[4])
return 1
