-- Takes tasks of a group to aggregate them, if it is time to.
-- KEYS: 1 tasks of the group, 2 the new set, 3 sets, 4 groups
-- ARGV: 1 now, 2 greatest size or 0, 3 longest delay or 0, 4 grace, 5 deadline, 6 group,
--       7 prefix of task keys, 8 '1' if this may have run before
-- Returns id, msg of each task taken, in the order in which they joined; none if it is not time

local function messages()
  local found = {}
  for _, id in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
    local msg = redis.call('HGET', ARGV[7] .. id, 'msg')
    if msg then
      found[#found + 1] = id
      found[#found + 1] = msg
    else
      redis.call('ZREM', KEYS[2], id)
    end
  end
  return found
end

if ARGV[8] == '1' and redis.call('EXISTS', KEYS[2]) == 1 then return messages() end
local now, most, delay = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local size = redis.call('ZCARD', KEYS[1])
if size == 0 then
  redis.call('SREM', KEYS[4], ARGV[6])
  return {}
end
local oldest = tonumber(redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2])
local newest = tonumber(redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2])
local count = 0
if most > 0 and size >= most then
  count = most
elseif (delay > 0 and oldest <= now - delay) or newest <= now - tonumber(ARGV[4]) then
  count = size
end
if count == 0 then return {} end
local taken = redis.call('ZRANGE', KEYS[1], 0, count - 1, 'WITHSCORES')
for i = 1, #taken, 2 do redis.call('ZADD', KEYS[2], taken[i + 1], taken[i]) end
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, count - 1)
redis.call('ZADD', KEYS[3], ARGV[5], KEYS[2])
if count == size then redis.call('SREM', KEYS[4], ARGV[6]) end
local found = messages()
if #found == 0 then
  redis.call('DEL', KEYS[2])
  redis.call('ZREM', KEYS[3], KEYS[2])
end
return found
