// Peer is a Pulse program that the interop tests of Terzetto drive.
//
// It takes the Redis URL as its argument, reads one request a line from its
// standard input and writes one answer a line to its standard output, both as
// JSON. Requests run at the same time; an answer has the request's id. A request
// names what it works on with "on", a name that the test gives when it opens a
// map, stream, reader, sink, node, worker, ticker or schedule. The program ends
// with its input, without closing anything: what it should close it is told.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// request is one line of the input. Times are in seconds.
type request struct {
	ID      int     `json:"id"`
	Do      string  `json:"do"`
	On      string  `json:"on"`
	In      string  `json:"in"`
	Name    text    `json:"name"`
	Key     text    `json:"key"`
	Value   text    `json:"value"`
	Test    text    `json:"test"`
	Items   []text  `json:"items"`
	Tests   []text  `json:"tests"`
	Number  int     `json:"number"`
	Seconds float64 `json:"seconds"`
	TTL     float64 `json:"ttl"`
	Grace   float64 `json:"grace"`
	Sliding bool    `json:"sliding"`
	Flag    bool    `json:"flag"`
	Topic   text    `json:"topic"`
	Pattern string  `json:"pattern"`
	Start   string  `json:"start"`
	At      int64   `json:"at"`
}

// answer is one line of the output.
type answer struct {
	ID     int    `json:"id"`
	Result any    `json:"result"`
	Error  string `json:"error,omitempty"`
}

// text is a string of any bytes; in JSON each byte is one code point.
type text string

func (t text) MarshalJSON() ([]byte, error) {
	runes := make([]rune, len(t))
	for i := range len(t) {
		runes[i] = rune(t[i])
	}
	return json.Marshal(string(runes))
}

func (t *text) UnmarshalJSON(data []byte) error {
	var s string
	if err := json.Unmarshal(data, &s); err != nil {
		return err
	}
	var raw []byte
	for _, r := range s {
		if r > 0xff {
			return fmt.Errorf("%q is not one byte", r)
		}
		raw = append(raw, byte(r))
	}
	*t = text(raw)
	return nil
}

func texts(all []string) []text {
	result := make([]text, len(all))
	for i, s := range all {
		result[i] = text(s)
	}
	return result
}

func plain(all []text) []string {
	result := make([]string, len(all))
	for i, s := range all {
		result[i] = string(s)
	}
	return result
}

// maybe is what JSON has as null when there is nothing.
func maybe(value string, exists bool) any {
	if !exists {
		return nil
	}
	return text(value)
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// command carries out one kind of request.
type command func(context.Context, *request) (any, error)

// program holds what the test has opened, by the names it gave.
type program struct {
	rdb   *redis.Client
	lock  sync.Mutex
	named map[string]any
}

func (p *program) put(name string, thing any) {
	p.lock.Lock()
	defer p.lock.Unlock()
	p.named[name] = thing
}

// of returns what was opened under a name; the program is at an end if there is nothing.
func of[T any](p *program, name string) T {
	p.lock.Lock()
	defer p.lock.Unlock()
	thing, ok := p.named[name].(T)
	if !ok {
		panic(fmt.Sprintf("nothing of that kind was opened as %q", name))
	}
	return thing
}

func main() {
	options, err := redis.ParseURL(os.Args[1])
	if err != nil {
		panic(err)
	}
	p := &program{rdb: redis.NewClient(options), named: map[string]any{}}
	commands := map[string]command{}
	for _, some := range []map[string]command{
		p.mapCommands(), p.streamCommands(), p.poolCommands(), p.benchCommands(),
	} {
		for name, do := range some {
			commands[name] = do
		}
	}

	var writing sync.Mutex
	out := json.NewEncoder(os.Stdout)
	say := func(a answer) {
		writing.Lock()
		defer writing.Unlock()
		if err := out.Encode(a); err != nil {
			panic(err)
		}
	}
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 64<<20)
	for in.Scan() {
		r := new(request)
		if err := json.Unmarshal(in.Bytes(), r); err != nil {
			panic(err)
		}
		do, ok := commands[r.Do]
		if !ok {
			panic("no command " + r.Do)
		}
		go func() {
			result, err := do(context.Background(), r)
			a := answer{ID: r.ID, Result: result}
			if err != nil {
				a.Result, a.Error = nil, err.Error()
			}
			say(a)
		}()
	}
}
