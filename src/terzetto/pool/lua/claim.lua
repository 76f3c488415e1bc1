-- Claims a job's key for a dispatch and sends the start event, all or nothing.
-- KEYS: 1 job-payloads hash, 2 pending-jobs hash, 3 pool stream, 4 this claim's own key,
--       5 shutdown hash
-- ARGV: 1 channel of pending-jobs, 2 job key, 3 start event's body,
--       4 how long the guard holds in us, 5 greatest number of queued events (0: any),
--       6 name of the pool's sink
-- Returns {1, guard, event id} claimed, also when it is asked again after a lost reply;
--         {2, guard, ''} pending, {3, '', ''} running, {6, '', queued} full,
--         {7, '', ''} the pool is being shut down

local known = redis.call('GET', KEYS[4])
if known then
  local guard, id = string.match(known, '^(%d+) (.*)$')
  return {1, guard, id}
end
if redis.call('HEXISTS', KEYS[5], 'shutdown') == 1 then return {7, '', ''} end
if redis.call('HEXISTS', KEYS[1], ARGV[2]) == 1 then return {3, '', ''} end
local guard = redis.call('HGET', KEYS[2], ARGV[2])
if guard_holds(guard) then return {2, guard, ''} end

-- What waits is what the group has not read yet and what it has not acknowledged.
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
        return group['pending'] + lag
      end
    end
  end
  redis.call('XGROUP', 'CREATE', KEYS[3], ARGV[6], '$', 'MKSTREAM')
  return 0
end

local limit = tonumber(ARGV[5])
local waiting = queued(limit > 0 and limit or 1)
if limit > 0 and waiting >= limit then return {6, '', decimal(waiting)} end

guard = decimal(now_us() + tonumber(ARGV[4])) .. '000'
map_set(KEYS[2], ARGV[1], ARGV[2], guard)
local id = redis.call('XADD', KEYS[3], '*', 'n', 'j', 'p', ARGV[3])
redis.call('SET', KEYS[4], guard .. ' ' .. id, 'PX', math.ceil(tonumber(ARGV[4]) / 1000))
return {1, guard, id}
