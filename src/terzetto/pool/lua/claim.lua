-- Settles dispatches that are over, then claims the keys of others and sends their start
-- events, each all or nothing. A job whose worker is known is read for the worker's node and
-- becomes the worker's in the same step, if nothing is in the way; that node is told of it.
-- KEYS: 1 job-payloads hash, 2 pending-jobs hash, 3 jobs hash, 4 workers hash,
--       5 shutdown hash, 6 pool stream, then the own keys of the dispatches whose guards
--       are released, then those of the claims, then the streams of nodes that may be told
-- ARGV: 1 to 3 channels of job-payloads, pending-jobs and jobs, 4 how long a guard holds
--       in us, 5 greatest number of queued events (0: any), 6 name of the pool's sink,
--       7 how many events are acknowledged, 8 how many guards are released,
--       then the ids of these events, then the job keys of these guards,
--       then for each claim six: job key, start event's body, id and creation time of the
--       worker that is to run it, the consumer of its node, all three or '', and which of
--       KEYS is the stream of that node, or 0 for the node that asks
-- Returns for each claim {1, event id} sent, {4, event id} and read for that consumer,
--         {5, event id} and owned by that worker, all three also when it is asked again
--         after a lost reply, {1, event id} then if another has the event meanwhile, or is
--         done with it, and {4, event id} if the job has ended;
--         {8, event id} sent, and there is no such node or consumer;
--         {2, ''} pending, {3, ''} running, {6, ''} full, {7, ''} the pool is being shut down

local payloads, pending, jobs, workers = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local stream, sink = KEYS[6], ARGV[6]
local limit, acked, released = tonumber(ARGV[5]), tonumber(ARGV[7]), tonumber(ARGV[8])
local next_key, next_arg = 7, 9

-- A node's stream is cut at a thousand events or so: it is told of no more starts than it
-- can be trusted to have read by then.
local most_told = 250

for i = next_arg, next_arg + acked - 1 do
  redis.call('XACK', stream, sink, ARGV[i])
  redis.call('XDEL', stream, ARGV[i])
end
next_arg = next_arg + acked

for i = 0, released - 1 do
  local known, key = redis.call('GETDEL', KEYS[next_key + i]), ARGV[next_arg + i]
  if known then
    if redis.call('HGET', pending, key) == string.match(known, '^%d+') then
      map_del(pending, ARGV[2], key)
    end
  end
end
next_key, next_arg = next_key + released, next_arg + released

-- What waits is what the group has not read yet and what it has not acknowledged.
-- `is_behind` tells whether any of it is still to be read. The group is made here if nobody
-- did: events before its birth are never delivered.
local waiting, is_behind
local function look_at_group()
  if waiting then return end
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  if not groups.err then
    for _, flat in ipairs(groups) do
      local group = {}
      for i = 1, #flat, 2 do group[flat[i]] = flat[i + 1] end
      if group['name'] == sink then
        local behind = redis.call('XRANGE', stream, '(' .. group['last-delivered-id'], '+',
          'COUNT', group['lag'] and 1 or math.max(limit, 1))
        waiting, is_behind = group['pending'] + (group['lag'] or #behind), #behind > 0
        return
      end
    end
  end
  redis.call('XGROUP', 'CREATE', stream, sink, '$', 'MKSTREAM')
  waiting, is_behind = 0, true
end

-- Whether a consumer is there: one that is not would be made by reading for it, unknown to
-- those who claim for the dead. To make it is the cheapest way to ask.
local is_consumer = {}
local function has_consumer(name)
  if is_consumer[name] == nil then
    is_consumer[name] = redis.call('XGROUP', 'CREATECONSUMER', stream, sink, name) == 0
    if not is_consumer[name] then redis.call('XGROUP', 'DELCONSUMER', stream, sink, name) end
  end
  return is_consumer[name]
end

-- The lists are read once; no key is claimed twice in between, for its payload is there then.
local lists, lists_rev
local owned = {}
local function own(key, body, worker, created, is_new, payloads_rev)
  if redis.call('HGET', workers, worker) ~= created then return false end
  local _, _, payload = struct.unpack('<ic0ic0ic0', body)
  -- Without its payload a job that was owned has ended, or failed, by the time it is asked again.
  if not is_new and redis.call('HGET', payloads, key) ~= payload then return false end
  if not lists then lists, lists_rev = lists_of(jobs) end
  if owner_in(lists, key, worker) then return false end
  -- A worker keeps no place for what is in its list, so a new key is not looked for there.
  local stored = lists[worker]
  if is_new or not (stored and list_has(stored, key)) then
    owned[worker] = owned[worker] or {}
    table.insert(owned[worker], key)
  end
  if is_new then map_set(payloads, ARGV[1], key, payload, payloads_rev) end
  return true
end

-- Whether an event that was read is still with the consumer that it was read for. By the time
-- that a claim is asked again, another may have run the job to its end.
local function is_held(id, consumer)
  local held = redis.pcall('XPENDING', stream, sink, id, id, 1, consumer)
  return not held.err and #held > 0
end

-- Tells another node of a start that was read for it.
local function tell(node, id, worker, is_owned, body)
  local told = struct.pack('<ic0ic0', #id, id, #worker, worker) .. (is_owned and '\1' or '\0')
  redis.call('XADD', node, '*', 'n', 't', 'p', told .. body)
end

local function claim(claim_key, key, body, worker, created, consumer, node)
  local known = redis.call('GET', claim_key)
  local id, read, is_nowhere, payloads_rev
  if known then
    id, read = string.match(known, '^%d+ (%S+) (%d)$')
    if read == '1' and not is_held(id, consumer) then read = '0' end
  else
    if redis.call('HEXISTS', KEYS[5], 'shutdown') == 1 then return {7, ''} end
    local stored = redis.call('HMGET', payloads, key, '=rev')
    if stored[1] then return {3, ''} end
    payloads_rev = stored[2] or '0'
    local started = redis.call('HMGET', pending, key, '=rev')
    if guard_holds(started[1]) then return {2, ''} end
    look_at_group()
    if limit > 0 and waiting >= limit then return {6, ''} end
    local guard = decimal(now_us() + tonumber(ARGV[4])) .. '000'
    map_set(pending, ARGV[2], key, guard, started[2] or '0')
    id = redis.call('XADD', stream, '*', 'n', 'j', 'p', body)
    waiting, read = waiting + 1, '0'
    if worker ~= '' and not is_behind and not (node and waiting > most_told) then
      is_nowhere = node and redis.call('EXISTS', node) == 0 or not has_consumer(consumer)
      if not is_nowhere then
        redis.call('XREADGROUP', 'GROUP', sink, consumer, 'COUNT', 1, 'STREAMS', stream, '>')
        read = '1'
      end
    end
    if read == '0' then is_behind = true end
    redis.call('SET', claim_key, guard .. ' ' .. id .. ' ' .. read,
      'PX', math.ceil(tonumber(ARGV[4]) / 1000))
  end
  if is_nowhere then return {8, id} end
  if read == '0' or worker == '' then return {read == '0' and 1 or 4, id} end
  local is_owned = own(key, body, worker, created, not known, payloads_rev)
  if node and not known then tell(node, id, worker, is_owned, body) end
  return {is_owned and 5 or 4, id}
end

local replies = {}
for i = next_arg, #ARGV, 6 do
  replies[#replies + 1] = claim(KEYS[next_key], ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3],
    ARGV[i + 4], KEYS[tonumber(ARGV[i + 5])])
  next_key = next_key + 1
end
for worker, keys in pairs(owned) do
  list_add(jobs, ARGV[3], worker, lists[worker], keys, lists_rev)
  lists_rev = decimal((tonumber(lists_rev) or 0) + 1)
end
return replies
