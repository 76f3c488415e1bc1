-- Adds an event to a node's stream, if that is there; a script, so that it can be posted.
-- KEYS: 1 the node's stream
-- ARGV: 1 greatest length of the stream, about, 2 name of the event, 3 its body
-- Returns 1, or 0 if there is no such stream

local id = redis.call('XADD', KEYS[1], 'NOMKSTREAM', 'MAXLEN', '~', ARGV[1], '*',
  'n', ARGV[2], 'p', ARGV[3])
return id and 1 or 0
