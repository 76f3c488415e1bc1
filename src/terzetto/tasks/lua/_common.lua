-- Stands before each script of task queues: what they share.
-- KEYS, ARGV, returns: none of its own.
-- All keys of a script have the tag of one queue, and with it one slot. Where an id
-- is found in a list, the key of its task is made from the prefix that was passed.

-- Pushes ids to one end of pending; wakes idle servers if it was empty.
local function push(side, pending, ids, channel)
  local from, count = 1, #ids
  while from <= count do
    local to = math.min(from + 999, count)
    local length = redis.call(side, pending, unpack(ids, from, to))
    if length == to - from + 1 then redis.call('PUBLISH', channel, '') end
    from = to + 1
  end
end

-- Releases a lock, if the task holds it.
local function unlock(lock, id)
  if redis.call('GET', lock) == id then redis.call('DEL', lock) end
end

-- The lock of a task, if its hash names one and it is one of this queue's.
local function lock_of(task, prefix)
  local lock = redis.call('HGET', task, 'unique_key')
  if lock and string.sub(lock, 1, #prefix) == prefix then return lock end
  return nil
end

-- Deletes a task and releases its lock.
local function erase(task, id, prefix)
  local lock = lock_of(task, prefix)
  if lock then unlock(lock, id) end
  return redis.call('DEL', task)
end

-- Makes a lock last for `ms` at least while its task runs.
local function renew(lock, id, ms)
  if redis.call('GET', lock) == id and redis.call('PTTL', lock) < tonumber(ms) then
    redis.call('PEXPIRE', lock, ms)
  end
end

-- Adds to the total; one that is full begins again at 1.
local function add(total, count)
  local reply = redis.pcall('INCRBY', total, count)
  if type(reply) == 'table' and reply.err then redis.call('SET', total, 1) end
end

local function count_day(day, count, expire_at)
  if redis.call('INCRBY', day, count) == count then redis.call('EXPIREAT', day, expire_at) end
end

-- Takes a task out of active. The last one there is the oldest, so it is found soon.
local function leave(active, lease, id)
  if redis.call('LREM', active, -1, id) == 0 then return false end
  redis.call('ZREM', lease, id)
  return true
end

-- Takes a task out of active if it is held under `token`; else changes nothing.
local function leave_held(active, lease, task, id, token)
  return redis.call('HGET', task, 'pending_since') == token and leave(active, lease, id)
end

-- Keeps archived within its limits: not older than `cutoff`, not more than `most`.
-- At most 100 go at once, so that a long neglected queue does not block Redis.
local function trim(archived, tasks, prefix, cutoff, most)
  local ids = redis.call('ZRANGEBYSCORE', archived, '-inf', cutoff, 'LIMIT', 0, 100)
  if #ids == 0 then
    local over = redis.call('ZCARD', archived) - tonumber(most)
    if over > 0 then ids = redis.call('ZRANGE', archived, 0, math.min(over, 100) - 1) end
  end
  for _, id in ipairs(ids) do
    erase(tasks .. id, id, prefix)
    redis.call('ZREM', archived, id)
  end
  return #ids
end
