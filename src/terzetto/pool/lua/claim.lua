-- Settles dispatches that are over, then claims the keys of others and sends their start
-- events, each all or nothing. A job whose worker is known is read for the worker's node and
-- becomes the worker's in the same step, if nothing is in the way; that node is told of it.
-- KEYS: 1 job-payloads hash, 2 pending-jobs hash, 3 jobs hash, 4 workers hash,
--       5 shutdown hash, 6 pool stream, then the own keys of the dispatches whose guards
--       are released, then those of the claims, then the streams of nodes that may be told
-- ARGV: 1 to 3 channels of job-payloads, pending-jobs and jobs, 4 how long a guard holds
--       in us, 5 greatest number of queued events (0: any), 6 name of the pool's sink,
--       7 how many events are acknowledged, 8 how many guards are released,
--       9 '1' if this was asked before, and the reply was lost, else '0',
--       then the ids of these events, then the job keys of these guards,
--       then for each claim six: job key, start event's body, id and creation time of the
--       worker that is to run it, the consumer of its node, all three or '', and which of
--       KEYS is the stream of that node, or 0 for the node that asks
-- Returns for each claim {1, event id} sent, {4, event id} and read for that consumer,
--         {5, event id} and owned by that worker, all three also when it is asked again
--         after a lost reply, {1, event id} then if another has the event meanwhile, or is
--         done with it; {8, event id} sent, and there is no such node or consumer;
--         {2, ''} pending, {3, ''} running, {6, ''} full, {7, ''} the pool is being shut down

local payloads, pending, jobs, workers = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local stream, sink = KEYS[6], ARGV[6]
local limit, acked, released = tonumber(ARGV[5]), tonumber(ARGV[7]), tonumber(ARGV[8])
local next_key, next_arg = 7, 10

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

-- What Redis tells of the sink's group, by name; nil if there is none.
local function group_info()
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  for _, flat in ipairs(groups.err and {} or groups) do
    local group = {}
    for i = 1, #flat, 2 do group[flat[i]] = flat[i + 1] end
    if group['name'] == sink then return group end
  end
  return nil
end

-- What waits is what the group has not read yet and what it has not acknowledged. The stream
-- holds that, and what is done and not yet deleted: its length, which costs less to ask for,
-- is enough as long as it is small. (What was cut off unacknowledged is not in it; nobody can
-- bring that any more.) The group is made here if nobody did: events before its birth are
-- never delivered.
local waiting, is_counted
local function count_waiting()
  is_counted = true
  local group = group_info()
  if group then
    waiting = group['pending'] + (group['lag'] or #redis.call('XRANGE', stream,
      '(' .. group['last-delivered-id'], '+', 'COUNT', math.max(limit, 1)))
  else
    redis.call('XGROUP', 'CREATE', stream, sink, '$', 'MKSTREAM')
    waiting = 0
  end
end

-- Whether so many wait.
local function are_waiting(count)
  if not waiting then waiting = redis.call('XLEN', stream) end
  if waiting >= count and not is_counted then count_waiting() end
  return waiting >= count
end

-- Whether a consumer is there: one that is not would be made by reading for it, unknown to
-- those who claim for the dead. To make it is the cheapest way to ask.
local is_consumer = {}
local function has_consumer(name)
  if is_consumer[name] == nil then
    local made = redis.pcall('XGROUP', 'CREATECONSUMER', stream, sink, name)
    is_consumer[name] = made == 0
    if made == 1 then redis.call('XGROUP', 'DELCONSUMER', stream, sink, name) end
  end
  return is_consumer[name]
end

-- One less than a number above 0 in digits, of which Lua's own numbers might lose some.
local function one_less(digits)
  local head, digit, zeros = string.match(digits, '^(%d-)([1-9])(0*)$')
  local less = head .. (digit - 1) .. string.rep('9', #zeros)
  return (string.gsub(less, '^0+(%d)', '%1'))
end

-- Makes an event the next to be read again, as if this consumer had not read it.
local function give_back(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  local before
  if seq == '0' then
    before = one_less(ms) .. '-18446744073709551615'
  else
    before = ms .. '-' .. one_less(seq)
  end
  local read = group_info()['entries-read']
  if read then
    redis.call('XGROUP', 'SETID', stream, sink, before, 'ENTRIESREAD', decimal(read - 1))
  else
    redis.call('XGROUP', 'SETID', stream, sink, before)
  end
  redis.call('XACK', stream, sink, id)
end

-- Reads the event that was just added for a consumer; false if others are to be read first.
-- To read and to give back is the cheapest way to ask that, for mostly there are none.
local function read_last(id, consumer)
  local reply = redis.call('XREADGROUP', 'GROUP', sink, consumer, 'COUNT', 1,
    'STREAMS', stream, '>')
  local read = reply and reply[1][2][1][1]
  if read and read ~= id then give_back(read) end
  return read == id
end

-- The lists are read once; no key is claimed twice in between, for its payload is there then.
local lists, lists_rev
local owned = {}
local function own(key, body, worker, created, is_new, payloads_rev)
  if redis.call('HGET', workers, worker) ~= created then return false end
  if not lists then lists, lists_rev = lists_of(jobs) end
  if owner_in(lists, key, worker) then return false end
  local _, _, payload = struct.unpack('<ic0ic0ic0', body)
  -- A worker keeps no place for what is in its list, so a new key is not looked for there.
  local stored = lists[worker]
  if is_new or not (stored and list_has(stored, key)) then
    owned[worker] = owned[worker] or {}
    table.insert(owned[worker], key)
  end
  if is_new or redis.call('HGET', payloads, key) ~= payload then
    map_set(payloads, ARGV[1], key, payload, payloads_rev)
  end
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

local is_behind -- whether an event that was added here is not read yet

local function claim(claim_key, key, body, worker, created, consumer, node)
  local known = ARGV[9] == '1' and redis.call('GET', claim_key)
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
    if worker ~= '' then
      is_nowhere = node and redis.call('EXISTS', node) == 0 or not has_consumer(consumer)
    end
    if (worker == '' or is_nowhere) and not is_counted then count_waiting() end
    if limit > 0 and are_waiting(limit) then return {6, ''} end
    local guard = decimal(now_us() + tonumber(ARGV[4])) .. '000'
    map_set(pending, ARGV[2], key, guard, started[2] or '0')
    local is_told = worker ~= '' and not is_nowhere and not is_behind
      and not (node and are_waiting(most_told))
    id = redis.call('XADD', stream, '*', 'n', 'j', 'p', body)
    waiting = waiting and waiting + 1
    if is_told and read_last(id, consumer) then read = '1' else read, is_behind = '0', true end
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
