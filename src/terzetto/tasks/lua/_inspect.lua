-- Stands before the inspector's scripts that move tasks.
-- KEYS, ARGV, returns: none of its own.

-- The sets in which tasks of a group are being aggregated.
local function sets_of(sets, prefix, group)
  local found, start = {}, prefix .. 'g:' .. group .. ':'
  for _, set in ipairs(redis.call('ZRANGE', sets, 0, -1)) do
    if string.sub(set, 1, #start) == start and not string.find(set, ':', #start + 1, true) then
      found[#found + 1] = set
    end
  end
  return found
end

-- Makes a task pending.
local function revive(task, now_ns)
  redis.call('HSET', task, 'state', 'pending', 'pending_since', now_ns)
  redis.call('HDEL', task, 'due_ms')
end

-- Makes a task archived; the set has to get it from the caller.
local function shelve(task)
  redis.call('HSET', task, 'state', 'archived')
  redis.call('HDEL', task, 'due_ms', 'pending_since')
end
