-- Stands before the scripts that enqueue any kind of task: how one is put in its place.
-- KEYS, ARGV, returns: none of its own.
-- keys: 1 task hash, 2 pending, 3 scheduled, 4 groups, 5 tasks of its group, 6 lock, 7 ticks
-- args: 1 id, 2 msg, 3 'pending', 'scheduled' or 'aggregating', 4 now in ns, 5 now,
--       6 score in scheduled, 7 when it is due in ms or '', 8 group or '',
--       9 seconds of the lock or 0, 10 schedule or '', 11 its tick in ms, 12 wake channel,
--       13 when ticks are forgotten
-- Places what it was given; returns {1}, {0} id conflict, {-1, holder of the lock}, {-2} ticked.

local function place(keys, args)
  local id, kind = args[1], args[3]
  if args[10] ~= '' then
    local last = redis.call('HGET', keys[7], args[10])
    if last and tonumber(last) >= tonumber(args[11]) then return {-2} end
  end
  if redis.call('EXISTS', keys[1]) == 1 then return {0} end
  if tonumber(args[9]) > 0 and not redis.call('SET', keys[6], id, 'NX', 'EX', args[9]) then
    return {-1, redis.call('GET', keys[6])}
  end
  redis.call('HSET', keys[1], 'msg', args[2], 'state', kind)
  if tonumber(args[9]) > 0 then redis.call('HSET', keys[1], 'unique_key', keys[6]) end
  if args[8] ~= '' then redis.call('HSET', keys[1], 'group', args[8]) end
  if kind == 'pending' then
    redis.call('HSET', keys[1], 'pending_since', args[4])
    push('LPUSH', keys[2], {id}, args[12])
  elseif kind == 'scheduled' then
    if args[7] ~= '' then redis.call('HSET', keys[1], 'due_ms', args[7]) end
    redis.call('ZADD', keys[3], args[6], id)
  else
    redis.call('ZADD', keys[5], args[5], id)
    redis.call('SADD', keys[4], args[8])
  end
  if args[10] ~= '' then
    redis.call('HSET', keys[7], args[10], args[11])
    redis.call('EXPIREAT', keys[7], args[13])
  end
  return {1}
end
