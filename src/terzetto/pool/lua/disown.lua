-- Takes a job off its owner: it has ended, failed to start, or goes elsewhere.
-- KEYS: 1 jobs hash, 2 job-payloads hash, 3 pool stream
-- ARGV: 1 channel of jobs, 2 channel of job-payloads, 3 worker id, 4 job key,
--       5 "end": the payload goes too, "keep": it stays,
--         "requeue": it stays and the event in ARGV[6] is sent
-- Returns 1, or 0 if the worker does not own the job (then nothing was done)

if not list_remove(KEYS[1], ARGV[1], ARGV[3], ARGV[4]) then return 0 end
if ARGV[5] == 'end' then
  map_del(KEYS[2], ARGV[2], ARGV[4])
elseif ARGV[5] == 'requeue' then
  redis.call('XADD', KEYS[3], '*', 'n', 'j', 'p', ARGV[6])
end
return 1
