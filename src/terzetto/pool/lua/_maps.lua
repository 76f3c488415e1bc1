-- Stands before each of the pool's scripts: how a replicated map is written.
-- KEYS, ARGV, returns: none of its own.
-- Each write is one commit of the map's wire: the hash, =rev one up, =kind, one
-- message on the map's channel. Deleting what is absent is no commit.

local function decimal(number)
  return string.format('%.0f', number)
end

local function next_rev(hash)
  return decimal(redis.call('HINCRBY', hash, '=rev', 1))
end

-- With the revision before the write, where it was read along with something else ('0' if
-- there was none), the write is one command.
local function map_set(hash, channel, key, value, before_rev)
  local rev
  if before_rev then
    rev = decimal((tonumber(before_rev) or 0) + 1)
    redis.call('HSET', hash, key, value, '=kind', 'set', '=rev', rev)
  else
    redis.call('HSET', hash, key, value, '=kind', 'set')
    rev = next_rev(hash)
  end
  -- Packing a long value would copy it byte by byte; joining does it at once.
  local before = struct.pack('<ic0i', #key, key, #value)
  redis.call('PUBLISH', channel, 'set:' .. before .. value .. struct.pack('<ic0', #rev, rev))
end

local function map_del(hash, channel, key)
  if redis.call('HDEL', hash, key) == 0 then return false end
  redis.call('HSET', hash, '=kind', 'del')
  local rev = next_rev(hash)
  redis.call('PUBLISH', channel, 'del:' .. struct.pack('<ic0ic0', #key, key, #rev, rev))
  return true
end

-- A stored list is a JSON array; anything else is text with commas.
local function list_items(stored)
  local ok, items = pcall(cjson.decode, stored)
  if ok and type(items) == 'table' then return items end
  items = {}
  for part in string.gmatch(stored, '[^,]+') do items[#items + 1] = part end
  return items
end

local function list_has(stored, key)
  if not string.find(stored, cjson.encode(key), 1, true) then return false end
  for _, item in ipairs(list_items(stored)) do
    if item == key then return true end
  end
  return false
end

local function list_remove(hash, channel, field, key)
  local stored = redis.call('HGET', hash, field)
  if not stored then return false end
  local kept, found = {}, false
  for _, item in ipairs(list_items(stored)) do
    if item == key then found = true else kept[#kept + 1] = item end
  end
  if not found then return false end
  if #kept == 0 then
    map_del(hash, channel, field)
  else
    map_set(hash, channel, field, cjson.encode(kept))
  end
  return true
end

-- Adds keys to a list, as it is stored, that holds none of them. What our scripts wrote is
-- not parsed for it. `before_rev` is as in `map_set`.
local function list_add(hash, channel, field, stored, keys, before_rev)
  local ours = stored and string.sub(stored, 1, 2) == '["' and string.sub(stored, -2) == '"]'
  local items = stored and not ours and list_items(stored) or {}
  for _, key in ipairs(keys) do items[#items + 1] = key end
  local text = cjson.encode(items)
  if ours then text = string.sub(stored, 1, -2) .. ',' .. string.sub(text, 2) end
  map_set(hash, channel, field, text, before_rev)
end

-- The lists of all workers, by id, and the revision of their map.
local function lists_of(hash)
  local lists, rev, flat = {}, '0', redis.call('HGETALL', hash)
  for i = 1, #flat, 2 do
    if string.sub(flat[i], 1, 1) ~= '=' then
      lists[flat[i]] = flat[i + 1]
    elseif flat[i] == '=rev' then
      rev = flat[i + 1]
    end
  end
  return lists, rev
end

-- The id of a worker other than `but` whose list holds `key`, or nil.
local function owner_in(lists, key, but)
  for worker, stored in pairs(lists) do
    if worker ~= but and list_has(stored, key) then return worker end
  end
  return nil
end

-- The server's clock in microseconds.
local function now_us()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

-- Whether a guard still holds: its ns are not before now. One that is not all
-- digits holds nothing.
local function guard_holds(guard)
  if not guard or not string.find(guard, '^%d+$') then return false end
  local now = decimal(now_us()) .. '000'
  if #guard ~= #now then return #guard > #now end
  return guard >= now
end

-- The body of a start event that is sent again.
local function requeued_job(key, node, payload, created)
  return struct.pack('<ic0ic0ic0', #key, key, #node, node, #payload, payload) .. created .. '\1'
end
