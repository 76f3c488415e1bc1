-- Has the end of a task told to those who watch it.
-- KEYS: 1 task hash
-- ARGV: none
-- Returns {state, result, msg} as they are, or {} if there is no such task

local state, result, msg = unpack(redis.call('HMGET', KEYS[1], 'state', 'result', 'msg'))
if not state then return {} end
if state ~= 'completed' and state ~= 'archived' then redis.call('HSET', KEYS[1], 'watched', 1) end
return {state, result, msg}
