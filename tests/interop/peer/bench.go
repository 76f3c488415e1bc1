package main

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"goa.design/pulse/pool"
	"goa.design/pulse/rmap"
	"goa.design/pulse/streaming"
	"goa.design/pulse/streaming/options"
)

// load is what a load took: as a whole, and each of its calls, in seconds.
type load struct {
	Seconds float64   `json:"seconds"`
	Delays  []float64 `json:"delays"`
}

// run makes calls from so many goroutines, each so many one after the other.
func run(goroutines, each int, call func(goroutine, number int) error) (any, error) {
	delays := make([]float64, goroutines*each)
	errs := make([]error, goroutines)
	var all sync.WaitGroup
	began := time.Now()
	for g := range goroutines {
		all.Add(1)
		go func() {
			defer all.Done()
			for n := range each {
				at := time.Now()
				if err := call(g, n); err != nil {
					errs[g] = err
					return
				}
				delays[g*each+n] = time.Since(at).Seconds()
			}
		}()
	}
	all.Wait()
	took := time.Since(began).Seconds()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return load{took, delays}, nil
}

func now() float64 { return float64(time.Now().UnixNano()) / 1e9 }

// benchCommands are the loads of the bench. "number" is how many calls a goroutine
// makes, "value" what it writes.
func (p *program) benchCommands() map[string]command {
	return map[string]command{
		"bench.map.read": func(_ context.Context, r *request) (any, error) {
			m, key := of[*rmap.Map](p, r.On), string(r.Key)
			began := time.Now()
			for range r.Number {
				m.Get(key)
			}
			return time.Since(began).Seconds(), nil
		},
		"bench.map.set": func(ctx context.Context, r *request) (any, error) {
			m := of[*rmap.Map](p, r.On)
			return run(100, r.Number, func(g, n int) error {
				_, err := m.Set(ctx, fmt.Sprintf("key %d", g), fmt.Sprint(n))
				return err
			})
		},
		"bench.map.write": func(ctx context.Context, r *request) (any, error) {
			m := of[*rmap.Map](p, r.On)
			began, done := []float64{}, []float64{}
			for n := range r.Number {
				began = append(began, now())
				if _, err := m.Set(ctx, "key", fmt.Sprint(n)); err != nil {
					return nil, err
				}
				done = append(done, now())
				time.Sleep(time.Millisecond)
			}
			_, err := m.Set(ctx, "key", "end")
			return [][]float64{began, done}, err
		},
		"bench.map.follow": func(_ context.Context, r *request) (any, error) {
			m := of[*rmap.Map](p, r.On)
			changed := m.Subscribe()
			defer m.Unsubscribe(changed)
			seen, last := []any{}, ""
			for range changed {
				value, _ := m.Get("key")
				if value == "end" {
					break
				}
				if value != last {
					seen = append(seen, []any{value, now()})
				}
				last = value
			}
			return seen, nil
		},
		"bench.stream.add": func(ctx context.Context, r *request) (any, error) {
			stream := of[*streaming.Stream](p, r.On)
			goroutines := 1
			if r.Flag {
				goroutines = 100
			}
			return run(goroutines, r.Number, func(int, int) error {
				_, err := stream.Add(ctx, "user.created", []byte(r.Value))
				return err
			})
		},
		"bench.reader": func(ctx context.Context, r *request) (any, error) {
			began := time.Now()
			reader, err := of[*streaming.Stream](p, r.On).NewReader(ctx, options.WithReaderStartAtOldest())
			if err != nil {
				return nil, err
			}
			defer reader.Close()
			events := reader.Subscribe()
			for range r.Number {
				<-events
			}
			return time.Since(began).Seconds(), nil
		},
		"bench.sink": func(ctx context.Context, r *request) (any, error) {
			sink, err := of[*streaming.Stream](p, r.On).NewSink(ctx, string(r.Name), options.WithSinkStartAtOldest())
			if err != nil {
				return nil, err
			}
			defer sink.Close(ctx)
			began := time.Now()
			events := sink.Subscribe()
			for range r.Number {
				if err := sink.Ack(ctx, <-events); err != nil {
					return nil, err
				}
			}
			return time.Since(began).Seconds(), nil
		},
		// Adds an event a millisecond, with the time from before that, and takes them from a sink.
		"bench.end_to_end": func(ctx context.Context, r *request) (any, error) {
			stream := of[*streaming.Stream](p, r.On)
			sink, err := stream.NewSink(ctx, string(r.Name))
			if err != nil {
				return nil, err
			}
			defer sink.Close(ctx)
			events, errs := sink.Subscribe(), make(chan error, r.Number)
			go func() {
				due := time.Now()
				for range r.Number {
					due = due.Add(time.Millisecond)
					time.Sleep(time.Until(due))
					go func() {
						sent := fmt.Sprintf("%.9f", now())
						if _, err := stream.Add(ctx, "user.created", []byte(sent)); err != nil {
							errs <- err
						}
					}()
				}
			}()
			delays := make([]float64, r.Number)
			for n := range delays {
				select {
				case event := <-events:
					sent, err := strconv.ParseFloat(string(event.Payload), 64)
					if err != nil {
						return nil, err
					}
					delays[n] = now() - sent
					if err := sink.Ack(ctx, event); err != nil {
						return nil, err
					}
				case err := <-errs:
					return nil, err
				}
			}
			return delays, nil
		},
		"bench.dispatch": func(ctx context.Context, r *request) (any, error) {
			node := of[*pool.Node](p, r.On)
			goroutines := 1
			if r.Flag {
				goroutines = 100
			}
			return run(goroutines, r.Number, func(g, n int) error {
				return node.DispatchJob(ctx, fmt.Sprintf("%s-%d-%d", r.Key, g, n), []byte(r.Value))
			})
		},
		// Notifies one job, or stops one job after the other; until the handler has heard of it.
		"bench.tell": func(ctx context.Context, r *request) (any, error) {
			node, h := of[*pool.Node](p, r.In), of[*handler](p, r.On)
			key := func(n int) string { return fmt.Sprintf("%s-%d", r.Key, n) }
			for n := range r.Number {
				if err := node.DispatchJob(ctx, key(n), nil); err != nil {
					return nil, err
				}
			}
			h.heard = make(chan struct{}, r.Number)
			defer func() { h.heard = nil }()
			return run(1, r.Number, func(_, n int) error {
				var err error
				if r.Flag {
					err = node.StopJob(ctx, key(n))
				} else {
					err = node.NotifyWorker(ctx, key(n), []byte(r.Value))
				}
				<-h.heard
				return err
			})
		},
		// Stops every job, so that the next round finds what the first one found.
		"bench.clear": func(ctx context.Context, r *request) (any, error) {
			node := of[*pool.Node](p, r.On)
			for keys := node.JobKeys(); len(keys) > 0; keys = node.JobKeys() {
				for _, key := range keys {
					if err := node.StopJob(ctx, key); err != nil {
						return nil, err
					}
				}
				for wait := 0; wait < 500 && len(node.JobKeys()) > 0; wait++ {
					time.Sleep(10 * time.Millisecond)
				}
			}
			return nil, nil
		},
	}
}
