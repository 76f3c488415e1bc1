-- Makes a worker the owner of a job that it is about to start.
-- KEYS: 1 workers hash, 2 jobs hash, 3 job-payloads hash
-- ARGV: 1 channel of jobs, 2 channel of job-payloads, 3 worker id, 4 its creation time,
--       5 job key, 6 payload, 7 an owner that is known to be dead, or ''
-- Returns {1, ''} owned; {0, ''} this worker is no longer in the pool;
--         {2, id} another worker owns the key

if redis.call('HGET', KEYS[1], ARGV[3]) ~= ARGV[4] then return {0, ''} end
local other = owner_of(KEYS[2], ARGV[5], ARGV[3])
if other then
  if other ~= ARGV[7] then return {2, other} end
  list_remove(KEYS[2], ARGV[1], other, ARGV[5])
end
list_add(KEYS[2], ARGV[1], ARGV[3], ARGV[5])
if redis.call('HGET', KEYS[3], ARGV[5]) ~= ARGV[6] then
  map_set(KEYS[3], ARGV[2], ARGV[5], ARGV[6])
end
return {1, ''}
