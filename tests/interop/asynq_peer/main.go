// Asynq_peer is an asynq program that the interop tests of Terzetto drive.
//
// It takes the Redis URL as its argument (redis://, unix:// or
// redis-cluster://host:port,host:port), reads one request a line from its
// standard input and writes one answer a line to its standard output, both as
// JSON. Requests run at the same time; an answer has the request's id. Servers and
// schedulers are named with "on" by the test that starts them. The program ends
// with its input, without closing anything: what it should close it is told.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
)

// request is one line of the input. Times are in seconds, or Unix seconds.
type request struct {
	ID          int               `json:"id"`
	Do          string            `json:"do"`
	On          string            `json:"on"`
	Type        string            `json:"type"`
	Payload     text              `json:"payload"`
	Queue       string            `json:"queue"`
	Task        string            `json:"task"`
	State       string            `json:"state"`
	Group       string            `json:"group"`
	Spec        string            `json:"spec"`
	Retry       *int              `json:"retry"`
	Timeout     float64           `json:"timeout"`
	Deadline    int64             `json:"deadline"`
	Unique      float64           `json:"unique"`
	At          int64             `json:"at"`
	In          float64           `json:"in"`
	Retention   float64           `json:"retention"`
	Headers     map[string]string `json:"headers"`
	Queues      map[string]int    `json:"queues"`
	Concurrency int               `json:"concurrency"`
	Strict      bool              `json:"strict"`
	Flag        bool              `json:"flag"`
	GroupSize   int               `json:"group_size"`
	GroupGrace  float64           `json:"group_grace"`
	RetryDelay  float64           `json:"retry_delay"`
	Count       int               `json:"count"`
	Page        int               `json:"page"`
	Size        int               `json:"size"`
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
	raw := make([]byte, 0, len(s))
	for _, r := range s {
		if r > 0xff {
			return fmt.Errorf("%q is not one byte", r)
		}
		raw = append(raw, byte(r))
	}
	*t = text(raw)
	return nil
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// command carries out one kind of request.
type command func(context.Context, *request) (any, error)

// program holds what the test has started, by the names it gave.
type program struct {
	redis     asynq.RedisConnOpt
	client    *asynq.Client
	inspector *asynq.Inspector
	lock      sync.Mutex
	named     map[string]any
}

func (p *program) put(name string, thing any) {
	p.lock.Lock()
	defer p.lock.Unlock()
	p.named[name] = thing
}

// of returns what was started under a name; the program is at an end if there is nothing.
func of[T any](p *program, name string) T {
	p.lock.Lock()
	defer p.lock.Unlock()
	thing, ok := p.named[name].(T)
	if !ok {
		panic(fmt.Sprintf("nothing of that kind was started as %q", name))
	}
	return thing
}

// options says how asynq is to connect.
func options(url string) asynq.RedisConnOpt {
	if seeds, ok := strings.CutPrefix(url, "redis-cluster://"); ok {
		return asynq.RedisClusterClientOpt{Addrs: strings.Split(seeds, ",")}
	}
	found, err := redis.ParseURL(url)
	if err != nil {
		panic(err)
	}
	return asynq.RedisClientOpt{
		Network: found.Network, Addr: found.Addr, DB: found.DB,
		Username: found.Username, Password: found.Password,
	}
}

func main() {
	connection := options(os.Args[1])
	p := &program{
		redis:     connection,
		client:    asynq.NewClient(connection),
		inspector: asynq.NewInspector(connection),
		named:     map[string]any{},
	}
	commands := map[string]command{}
	for _, some := range []map[string]command{
		p.clientCommands(), p.serverCommands(), p.inspectorCommands(), p.benchCommands(),
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
