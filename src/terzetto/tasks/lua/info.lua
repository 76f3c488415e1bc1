-- Gives what is known of one task.
-- KEYS: 1 task hash, 2 scheduled, 3 retry, 4 lease
-- ARGV: 1 id
-- Returns {state, msg, result, ms at which it is due or '', end of its lease or ''}, or {}

local state, msg, result, due = unpack(
  redis.call('HMGET', KEYS[1], 'state', 'msg', 'result', 'due_ms'))
if not state then return {} end
local score, lease = nil, nil
if state == 'scheduled' then score = redis.call('ZSCORE', KEYS[2], ARGV[1]) end
if state == 'retry' then score = redis.call('ZSCORE', KEYS[3], ARGV[1]) end
if state == 'active' then lease = redis.call('ZSCORE', KEYS[4], ARGV[1]) end
if score and not due then due = string.format('%.0f', tonumber(score) * 1000) end
return {state, msg, result, score and due or '', lease or ''}
