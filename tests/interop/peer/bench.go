package main

// benchCommands come with the bench.
func (p *program) benchCommands() map[string]command { return nil }
