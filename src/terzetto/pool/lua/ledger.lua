-- Carries out what a worker has to change about its jobs, many changes in one step:
-- its list is read and written once, and only added to where nothing leaves it.
-- KEYS: 1 workers hash, 2 jobs hash, 3 job-payloads hash, 4 pool stream,
--       5 dead-letters hash, 6 pending-jobs hash, 7 hash of failed starts by job key
-- ARGV: 1 to 4 channels of jobs, job-payloads, dead-letters and pending-jobs,
--       5 worker id, 6 its creation time, 7 how often a start may fail,
--       8 name of the pool's sink, then for each change four:
--       "own", key, payload, an owner that is known to be dead or '':
--         becomes the owner of a job that it is about to start
--       "take", key, payload, the same: becomes the owner of a job that was accepted before
--         and is sent again, unless that has ended meanwhile
--       "end", key, '', the id of the event that started it or '': the job has ended; the
--         payload goes too, and so does the event, for whoever routed it may be gone
--       "fail", key, letter, how long it rests in us: the job did not start, and was sent
--         again before; the payload stays, and it will be sent again, later each time;
--         if it failed too often it becomes a dead letter
--       "keep", key, '', '': the same without counting it: its event is still pending
--       "fine", key, '', '': the job has started after all
--       "requeue", key, start event's body, an event's id as above: the job goes elsewhere
--       "bury", key, letter, the same: the job is given up, and becomes a dead letter
-- Returns for each change 1 done, 2 done and a dead letter, 3 the job has ended, 0 not done
-- (the worker is no longer in the pool, or does not own the job), or the id of the other
-- worker that owns the key

local jobs, worker = KEYS[2], ARGV[5]
local is_member = redis.call('HGET', KEYS[1], worker) == ARGV[6]
local stored = redis.call('HGET', jobs, worker)
local changed = false
local others

-- The keys of the list, once they are needed, and until then those that are added to it.
local items, place, count
local added, is_added = {}, {}

local function append(key)
  count = count + 1
  items[count] = key
  place[key] = count
end

local function read_items()
  if items then return end
  items, place = stored and list_items(stored) or {}, {}
  count = #items
  for i, key in ipairs(items) do place[key] = i end
  for _, key in ipairs(added) do append(key) end
end

local function has(key)
  if items then return place[key] ~= nil end
  return is_added[key] or (stored and list_has(stored, key))
end

local function add(key)
  changed = true
  if items then
    append(key)
  else
    added[#added + 1] = key
    is_added[key] = true
  end
end

local function owner_but_me(key)
  if not others then others = redis.call('HGETALL', jobs) end
  for i = 1, #others, 2 do
    local field = others[i]
    if field ~= worker and string.sub(field, 1, 1) ~= '=' and list_has(others[i + 1], key) then
      return field
    end
  end
  return nil
end

-- The payload goes when a job ends. Where the whole map is gone Redis has lost it.
local function has_ended(key)
  return redis.call('HEXISTS', KEYS[3], key) == 0 and redis.call('EXISTS', KEYS[3]) == 1
end

local function own(key, payload, dead)
  if not is_member then return 0 end
  local other = owner_but_me(key)
  if other then
    if other ~= dead then return other end
    list_remove(jobs, ARGV[1], other, key)
    others = nil
  end
  if not has(key) then add(key) end
  if redis.call('HGET', KEYS[3], key) ~= payload then map_set(KEYS[3], ARGV[2], key, payload) end
  return 1
end

local function bury(key, letter)
  map_set(KEYS[5], ARGV[3], key, letter)
  map_del(KEYS[3], ARGV[2], key)
  redis.call('HDEL', KEYS[7], key)
  return 2
end

-- Ends an event for good. Its id may be anybody's text: one that is none ends nothing.
local function settle(event)
  if event == '' then return end
  redis.pcall('XACK', KEYS[4], ARGV[8], event)
  redis.pcall('XDEL', KEYS[4], event)
end

local function let_go(kind, key, value, more)
  read_items()
  if not place[key] then return 0 end
  items[place[key]] = false
  place[key] = nil
  changed = true
  if kind == 'end' then
    map_del(KEYS[3], ARGV[2], key)
    redis.call('HDEL', KEYS[7], key)
    settle(more)
  elseif kind == 'requeue' then
    redis.call('XADD', KEYS[4], '*', 'n', 'j', 'p', value)
    settle(more)
  elseif kind == 'bury' then
    settle(more)
    return bury(key, value)
  elseif kind == 'fail' then
    local failures = redis.call('HINCRBY', KEYS[7], key, 1)
    if failures >= tonumber(ARGV[7]) then return bury(key, value) end
    -- The guard keeps the orphan from being sent again before its rest is over.
    local wait = tonumber(more) * 2 ^ (failures - 1)
    map_set(KEYS[6], ARGV[4], key, decimal(now_us() + wait) .. '000')
  end
  return 1
end

-- To look through the text for each of many keys would take longer than to read it once.
if #ARGV > 8 + 4 * 4 then read_items() end

local replies = {}
for i = 9, #ARGV, 4 do
  local kind, key, value, more = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  if kind == 'take' and has_ended(key) then
    replies[#replies + 1] = 3
  elseif kind == 'own' or kind == 'take' then
    replies[#replies + 1] = own(key, value, more)
  elseif kind == 'fine' then
    replies[#replies + 1] = redis.call('HDEL', KEYS[7], key)
  else
    replies[#replies + 1] = let_go(kind, key, value, more)
  end
end
if changed and not items then
  list_add(jobs, ARGV[1], worker, stored, added)
elseif changed then
  local kept = {}
  for i = 1, count do
    if items[i] then kept[#kept + 1] = items[i] end
  end
  if #kept == 0 then
    map_del(jobs, ARGV[1], worker)
  else
    map_set(jobs, ARGV[1], worker, cjson.encode(kept))
  end
end
return replies
