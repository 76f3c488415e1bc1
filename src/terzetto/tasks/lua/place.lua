-- Enqueues one task of any kind.
-- KEYS: as `place` has them: task hash, pending, scheduled, groups, tasks of its group,
--       lock, ticks; the task hash stands for those that it has not
-- ARGV: as `place` has them
-- Returns what `place` returns

return place(KEYS, ARGV)
