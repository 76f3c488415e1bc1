-- Claims a job's key for a dispatch and sends the start event, all or nothing.
-- KEYS: 1 job-payloads hash, 2 pending-jobs hash, 3 pool stream, 4 this claim's own key,
--       5 shutdown hash
-- ARGV: 1 channel of pending-jobs, 2 job key, 3 start event's body,
--       4 how long the guard holds in us, 5 greatest number of queued events (0: any),
--       6 name of the pool's sink, 7 consumer of the node that asks, if it would route the
--       event to a worker of its own, or ''
-- Returns {1, guard, event id, handed} claimed, also when it is asked again after a lost
--         reply; handed is '1' if the event was read for that consumer in the same step;
--         {2, guard, '', ''} pending, {3, '', '', ''} running, {6, '', queued, ''} full,
--         {7, '', '', ''} the pool is being shut down

local known = redis.call('GET', KEYS[4])
if known then
  return {1, string.match(known, '^(%d+) (%S+) (%d)$')}
end
if redis.call('HEXISTS', KEYS[5], 'shutdown') == 1 then return {7, '', '', ''} end
if redis.call('HEXISTS', KEYS[1], ARGV[2]) == 1 then return {3, '', '', ''} end
local guard = redis.call('HGET', KEYS[2], ARGV[2])
if guard_holds(guard) then return {2, guard, '', ''} end

-- What waits is what the group has not read yet and what it has not acknowledged; beside
-- it the last id that the group has read.
-- The group is made here if nobody did: events before its birth are never delivered.
local function queued(limit)
  local groups = redis.pcall('XINFO', 'GROUPS', KEYS[3])
  if not groups.err then
    for _, flat in ipairs(groups) do
      local group = {}
      for i = 1, #flat, 2 do group[flat[i]] = flat[i + 1] end
      if group['name'] == ARGV[6] then
        local lag = group['lag']
        if not lag then
          lag = #redis.call('XRANGE', KEYS[3], '(' .. group['last-delivered-id'], '+',
            'COUNT', limit)
        end
        return group['pending'] + lag, group['last-delivered-id']
      end
    end
  end
  redis.call('XGROUP', 'CREATE', KEYS[3], ARGV[6], '$', 'MKSTREAM')
  return 0, nil
end

-- Whether an event that is added now would be the next one read, and by a consumer that
-- is there: one that is not would be made, unknown to those who claim for the dead.
local function is_next_for(consumer, last)
  if consumer == '' or not last then return false end
  if #redis.call('XRANGE', KEYS[3], '(' .. last, '+', 'COUNT', 1) > 0 then return false end
  for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[3], ARGV[6])) do
    for i = 1, #flat, 2 do
      if flat[i] == 'name' and flat[i + 1] == consumer then return true end
    end
  end
  return false
end

local limit = tonumber(ARGV[5])
local waiting, last = queued(limit > 0 and limit or 1)
if limit > 0 and waiting >= limit then return {6, '', decimal(waiting), ''} end

guard = decimal(now_us() + tonumber(ARGV[4])) .. '000'
map_set(KEYS[2], ARGV[1], ARGV[2], guard)
local handed = is_next_for(ARGV[7], last) and '1' or '0'
local id = redis.call('XADD', KEYS[3], '*', 'n', 'j', 'p', ARGV[3])
if handed == '1' then
  redis.call('XREADGROUP', 'GROUP', ARGV[6], ARGV[7], 'COUNT', 1, 'STREAMS', KEYS[3], '>')
end
redis.call('SET', KEYS[4], guard .. ' ' .. id .. ' ' .. handed,
  'PX', math.ceil(tonumber(ARGV[4]) / 1000))
return {1, guard, id, handed}
