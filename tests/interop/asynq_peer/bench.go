package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hibiken/asynq"
)

func (p *program) benchCommands() map[string]command {
	return map[string]command{
		"bench_enqueue": p.benchEnqueue, "bench_drain": p.benchDrain, "bench_start": p.benchStart,
	}
}

// benchEnqueue enqueues so many tasks from so many goroutines; it returns the seconds taken.
func (p *program) benchEnqueue(ctx context.Context, r *request) (any, error) {
	begun := time.Now()
	var group sync.WaitGroup
	var failed atomic.Pointer[error]
	each := r.Count / r.Concurrency
	for worker := range r.Concurrency {
		group.Add(1)
		go func() {
			defer group.Done()
			for number := range each {
				payload := fmt.Sprintf(`{"data":%d}`, worker*each+number)
				t := asynq.NewTask("bench", []byte(payload))
				if _, err := p.client.EnqueueContext(ctx, t); err != nil {
					failed.Store(&err)
					return
				}
			}
		}()
	}
	group.Wait()
	if err := failed.Load(); err != nil {
		return nil, *err
	}
	return time.Since(begun).Seconds(), nil
}

// benchDrain handles so many tasks that wait; with "flag", each hundredth fails once.
func (p *program) benchDrain(_ context.Context, r *request) (any, error) {
	done := make(chan struct{})
	var count atomic.Int64
	server := asynq.NewServer(p.redis, asynq.Config{
		Concurrency:              r.Concurrency,
		LogLevel:                 asynq.FatalLevel,
		RetryDelayFunc:           func(int, error, *asynq.Task) time.Duration { return time.Second },
		DelayedTaskCheckInterval: time.Second,
	})
	begun := time.Now()
	err := server.Start(asynq.HandlerFunc(func(ctx context.Context, t *asynq.Task) error {
		retried, _ := asynq.GetRetryCount(ctx)
		var number int
		if _, err := fmt.Sscanf(string(t.Payload()), `{"data":%d}`, &number); err != nil {
			return err
		}
		if r.Flag && retried == 0 && number%100 == 0 {
			return fmt.Errorf("the first time")
		}
		if count.Add(1) == int64(r.Count) {
			close(done)
		}
		return nil
	}))
	if err != nil {
		return nil, err
	}
	<-done
	taken := time.Since(begun).Seconds()
	server.Shutdown()
	return taken, nil
}

// benchStart enqueues one task at a time for an idle server; it returns the seconds to each start.
func (p *program) benchStart(ctx context.Context, r *request) (any, error) {
	started := make(chan time.Time, 1)
	server := asynq.NewServer(p.redis, asynq.Config{
		Concurrency: r.Concurrency, LogLevel: asynq.FatalLevel,
	})
	err := server.Start(asynq.HandlerFunc(func(context.Context, *asynq.Task) error {
		started <- time.Now()
		return nil
	}))
	if err != nil {
		return nil, err
	}
	defer server.Shutdown()
	var waits []float64
	for range r.Count {
		time.Sleep(20 * time.Millisecond) // so that the server is idle
		begun := time.Now()
		if _, err := p.client.EnqueueContext(ctx, asynq.NewTask("bench", nil)); err != nil {
			return nil, err
		}
		waits = append(waits, (<-started).Sub(begun).Seconds())
	}
	return waits, nil
}
