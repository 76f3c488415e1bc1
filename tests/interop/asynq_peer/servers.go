package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hibiken/asynq"
)

// server is a running asynq server, with what it has handled.
type server struct {
	*asynq.Server
	lock     sync.Mutex
	handled  []map[string]any
	more     chan struct{}
	released chan struct{}
}

func (p *program) serverCommands() map[string]command {
	return map[string]command{
		"serve": p.serve, "handled": p.handled, "release": p.release, "stop": p.stop,
		"schedule": p.schedule, "end_schedule": p.endSchedule,
	}
}

func (p *program) serve(_ context.Context, r *request) (any, error) {
	s := &server{more: make(chan struct{}, 1), released: make(chan struct{})}
	config := asynq.Config{
		Concurrency: r.Concurrency, Queues: r.Queues, StrictPriority: r.Strict,
		LogLevel:                 asynq.FatalLevel,
		TaskCheckInterval:        200 * time.Millisecond,
		DelayedTaskCheckInterval: time.Second,
		ShutdownTimeout:          2 * time.Second,
		GroupGracePeriod:         seconds(max(r.GroupGrace, 1)),
		GroupMaxSize:             r.GroupSize,
	}
	if r.RetryDelay != 0 {
		config.RetryDelayFunc = func(int, error, *asynq.Task) time.Duration { return seconds(r.RetryDelay) }
	}
	if r.GroupSize != 0 {
		config.GroupAggregator = asynq.GroupAggregatorFunc(join)
	}
	s.Server = asynq.NewServer(p.redis, config)
	p.put(r.On, s)
	return nil, s.Start(asynq.HandlerFunc(s.handle))
}

// join aggregates a group into one task: the payloads, with commas between.
func join(group string, tasks []*asynq.Task) *asynq.Task {
	var payloads []string
	for _, t := range tasks {
		payloads = append(payloads, string(t.Payload()))
	}
	return asynq.NewTask("joined:"+group, []byte(strings.Join(payloads, ",")))
}

// handle does what the task's type says: what comes before its first colon.
func (s *server) handle(ctx context.Context, t *asynq.Task) error {
	retried, _ := asynq.GetRetryCount(ctx)
	id, _ := asynq.GetTaskID(ctx)
	queue, _ := asynq.GetQueueName(ctx)
	s.lock.Lock()
	s.handled = append(s.handled, map[string]any{
		"id": id, "queue": queue, "type": t.Type(), "payload": text(t.Payload()),
		"retried": retried, "headers": t.Headers(),
	})
	s.lock.Unlock()
	select {
	case s.more <- struct{}{}:
	default:
	}
	kind, _, _ := strings.Cut(t.Type(), ":")
	switch kind {
	case "fail":
		return errors.New("failed as told")
	case "once": // fails the first time
		if retried == 0 {
			return errors.New("failed as told")
		}
	case "skip":
		return fmt.Errorf("skipped as told: %w", asynq.SkipRetry)
	case "revoke":
		return fmt.Errorf("revoked as told: %w", asynq.RevokeTask)
	case "panic":
		panic("as told")
	case "result":
		_, err := t.ResultWriter().Write(t.Payload())
		return err
	case "sleep":
		long, err := strconv.ParseFloat(string(t.Payload()), 64)
		if err != nil {
			return err
		}
		select {
		case <-time.After(seconds(long)):
		case <-ctx.Done():
			return ctx.Err()
		}
	case "hold": // until the server is told to release what it holds
		select {
		case <-s.released:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// handled waits until a server has begun with at least so many tasks, and returns all.
func (p *program) handled(_ context.Context, r *request) (any, error) {
	s := of[*server](p, r.On)
	deadline := time.After(seconds(30))
	for {
		s.lock.Lock()
		all := append([]map[string]any{}, s.handled...)
		s.lock.Unlock()
		if len(all) >= r.Count {
			return all, nil
		}
		select {
		case <-s.more:
		case <-deadline:
			return nil, fmt.Errorf("handled %d of %d: %v", len(all), r.Count, all)
		}
	}
}

func (p *program) release(_ context.Context, r *request) (any, error) {
	close(of[*server](p, r.On).released)
	return nil, nil
}

func (p *program) stop(_ context.Context, r *request) (any, error) {
	of[*server](p, r.On).Shutdown()
	return nil, nil
}

func (p *program) schedule(_ context.Context, r *request) (any, error) {
	scheduler := asynq.NewScheduler(p.redis, &asynq.SchedulerOpts{
		LogLevel: asynq.FatalLevel, HeartbeatInterval: time.Second,
	})
	made, opts := task(r)
	entry, err := scheduler.Register(r.Spec, made, opts...)
	if err != nil {
		return nil, err
	}
	p.put(r.On, scheduler)
	return entry, scheduler.Start()
}

func (p *program) endSchedule(_ context.Context, r *request) (any, error) {
	of[*asynq.Scheduler](p, r.On).Shutdown()
	return nil, nil
}
