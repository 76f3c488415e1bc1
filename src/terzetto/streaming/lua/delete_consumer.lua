-- Delete a consumer that has nothing pending.
-- KEYS[1] the stream's key
-- ARGV[1] the group
-- ARGV[2] the consumer
-- Returns 1 if it is gone, 0 if it has entries pending and stays
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) > 0 then
    return 0
end
redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
return 1
