-- Removes every occurrence of some items from the list of a key; an emptied list goes, key and all.
-- KEYS[1]  the content hash
-- ARGV[1]  the updates channel
-- ARGV[2]  expiry in whole seconds, 0 for none
-- ARGV[3]  "absolute" (armed once) or "sliding" (armed anew)
-- ARGV[4]  key
-- ARGV[5…] the items
-- returns  {the list as it is stored now, "" if it was emptied, nil if the key is absent;
--           1 if something was removed else 0}

local function read_list(text)
  local ok, list = pcall(cjson.decode, text)
  if ok and type(list) == 'table' then
    return list
  end
  list = {}
  for item in string.gmatch(text, '[^,]+') do
    list[#list + 1] = item
  end
  return list
end

local key = ARGV[4]
local value = redis.call('HGET', KEYS[1], key)
local removed = false
if value and #ARGV > 4 then
  local unwanted = {}
  for i = 5, #ARGV do
    unwanted[ARGV[i]] = true
  end
  local kept = {}
  for _, item in ipairs(read_list(value)) do
    if unwanted[item] then
      removed = true
    else
      kept[#kept + 1] = item
    end
  end
  if removed then
    local left = #kept > 0 and cjson.encode(kept) or '' -- raises if it holds what is no JSON
    -- The revision comes first: if it cannot be read, this raises before anything has changed.
    local revision = string.format('%.0f', redis.call('HINCRBY', KEYS[1], '=rev', 1))
    value = left
    if #kept == 0 then
      redis.call('HDEL', KEYS[1], key)
      redis.call('HSET', KEYS[1], '=kind', 'del')
      redis.call('PUBLISH', ARGV[1], 'del:' .. struct.pack('<i4c0i4c0', #key, key, #revision, revision))
    else
      redis.call('HSET', KEYS[1], key, value, '=kind', 'set')
      redis.call('PUBLISH', ARGV[1], 'set:' .. struct.pack('<i4c0i4c0i4c0', #key, key, #value, value, #revision, revision))
    end
  end
end
if ARGV[2] ~= '0' then
  if ARGV[3] == 'sliding' then
    redis.call('EXPIRE', KEYS[1], ARGV[2])
  else
    redis.call('EXPIRE', KEYS[1], ARGV[2], 'NX')
  end
end
return {value, removed and 1 or 0}
