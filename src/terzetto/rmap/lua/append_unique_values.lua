-- Appends those items that the list of a key does not hold yet, each once.
-- KEYS[1]  the content hash
-- ARGV[1]  the updates channel
-- ARGV[2]  expiry in whole seconds, 0 for none
-- ARGV[3]  "absolute" (armed once) or "sliding" (armed anew)
-- ARGV[4]  key
-- ARGV[5…] the items
-- returns  the list as it is stored now, or nil if the key is absent

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
local list = value and read_list(value) or {}
local held = {}
for _, item in ipairs(list) do
  held[item] = true
end
local grown = false
for i = 5, #ARGV do
  local item = ARGV[i]
  if not held[item] then
    held[item] = true
    list[#list + 1] = item
    grown = true
  end
end
if grown then
  value = cjson.encode(list)
  -- The revision comes first: if it cannot be read, this raises before anything has changed.
  local revision = string.format('%.0f', redis.call('HINCRBY', KEYS[1], '=rev', 1))
  redis.call('HSET', KEYS[1], key, value, '=kind', 'set')
  redis.call('PUBLISH', ARGV[1], 'set:' .. struct.pack('<i4c0i4c0i4c0', #key, key, #value, value, #revision, revision))
end
if ARGV[2] ~= '0' then
  if ARGV[3] == 'sliding' then
    redis.call('EXPIRE', KEYS[1], ARGV[2])
  else
    redis.call('EXPIRE', KEYS[1], ARGV[2], 'NX')
  end
end
return value
