package main

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"goa.design/pulse/pool"
)

// handler runs jobs that do nothing, and keeps what it was told. The payload of a
// job that it should refuse opens with "refuse:", followed by the text.
type handler struct {
	worker *pool.Worker
	lock   sync.Mutex
	jobs   map[string]string
	told   [][3]text
	// heard, if there is one, hears of each stop and each notification.
	heard chan struct{}
}

func (h *handler) note(kind, key string, payload []byte) {
	h.told = append(h.told, [3]text{text(kind), text(key), text(payload)})
	if h.heard != nil && kind != "start" {
		h.heard <- struct{}{}
	}
}

func (h *handler) Start(job *pool.Job) error {
	h.lock.Lock()
	defer h.lock.Unlock()
	h.note("start", job.Key, job.Payload)
	if why, refused := strings.CutPrefix(string(job.Payload), "refuse:"); refused {
		return errors.New(why)
	}
	h.jobs[job.Key] = string(job.Payload)
	return nil
}

func (h *handler) Stop(key string) error {
	h.lock.Lock()
	defer h.lock.Unlock()
	h.note("stop", key, nil)
	delete(h.jobs, key)
	return nil
}

func (h *handler) HandleNotification(key string, payload []byte) error {
	h.lock.Lock()
	defer h.lock.Unlock()
	h.note("notify", key, payload)
	return nil
}

// producer has a plan that never changes, until it is told to end the schedule.
type producer struct {
	name  string
	plan  pool.JobPlan
	lock  sync.Mutex
	calls int
	over  bool
}

func (s *producer) Name() string { return s.name }

func (s *producer) Plan() (*pool.JobPlan, error) {
	s.lock.Lock()
	defer s.lock.Unlock()
	s.calls++
	if s.over {
		return nil, pool.ErrScheduleStop
	}
	return &s.plan, nil
}

// ticks counts the ticks that a ticker delivers here.
type ticks struct {
	ticker *pool.Ticker
	lock   sync.Mutex
	count  int
}

// poolCommands are those on nodes, workers, tickers and schedules.
func (p *program) poolCommands() map[string]command {
	on := func(do func(context.Context, *pool.Node, *request) (any, error)) command {
		return func(ctx context.Context, r *request) (any, error) {
			return do(ctx, of[*pool.Node](p, r.On), r)
		}
	}
	in := func(do func(context.Context, *pool.Node, *request) (any, error)) command {
		return func(ctx context.Context, r *request) (any, error) {
			return do(ctx, of[*pool.Node](p, r.In), r)
		}
	}
	return map[string]command{
		"node.open": func(ctx context.Context, r *request) (any, error) {
			all := []pool.NodeOption{
				pool.WithWorkerTTL(seconds(r.TTL)), pool.WithAckGracePeriod(seconds(r.Grace)),
				pool.WithJobSinkBlockDuration(200 * time.Millisecond),
				pool.WithWorkerShutdownTTL(seconds(5)),
			}
			if r.Flag {
				all = append(all, pool.WithClientOnly())
			}
			node, err := pool.AddNode(ctx, string(r.Name), p.rdb, all...)
			if err == nil {
				p.put(r.On, node)
			}
			return nil, err
		},
		"node.close":    on(func(ctx context.Context, n *pool.Node, _ *request) (any, error) { return nil, n.Close(ctx) }),
		"node.shutdown": on(func(ctx context.Context, n *pool.Node, _ *request) (any, error) { return nil, n.Shutdown(ctx) }),
		"node.state": on(func(_ context.Context, n *pool.Node, _ *request) (any, error) {
			return map[string]bool{"closed": n.IsClosed(), "shutdown": n.IsShutdown()}, nil
		}),
		"node.dispatch": on(func(ctx context.Context, n *pool.Node, r *request) (any, error) {
			return nil, n.DispatchJob(ctx, string(r.Key), []byte(r.Value))
		}),
		"node.stop_job": on(func(ctx context.Context, n *pool.Node, r *request) (any, error) {
			return nil, n.StopJob(ctx, string(r.Key))
		}),
		"node.notify": on(func(ctx context.Context, n *pool.Node, r *request) (any, error) {
			return nil, n.NotifyWorker(ctx, string(r.Key), []byte(r.Value))
		}),
		"node.job_keys": on(func(_ context.Context, n *pool.Node, _ *request) (any, error) {
			return texts(n.JobKeys()), nil
		}),
		"node.pool_workers": on(func(_ context.Context, n *pool.Node, _ *request) (any, error) {
			ids := []string{}
			for _, worker := range n.PoolWorkers() {
				ids = append(ids, worker.ID)
			}
			return ids, nil
		}),
		"worker.add": in(func(ctx context.Context, n *pool.Node, r *request) (any, error) {
			h := &handler{jobs: map[string]string{}}
			worker, err := n.AddWorker(ctx, h)
			if err != nil {
				return nil, err
			}
			h.worker = worker
			p.put(r.On, h)
			return worker.ID, nil
		}),
		"worker.jobs": func(_ context.Context, r *request) (any, error) {
			h := of[*handler](p, r.On)
			h.lock.Lock()
			defer h.lock.Unlock()
			jobs := [][2]text{}
			for key, payload := range h.jobs {
				jobs = append(jobs, [2]text{text(key), text(payload)})
			}
			return jobs, nil
		},
		"worker.told": func(_ context.Context, r *request) (any, error) {
			h := of[*handler](p, r.On)
			h.lock.Lock()
			defer h.lock.Unlock()
			return append([][3]text{}, h.told...), nil
		},
		"ticker.open": in(func(ctx context.Context, n *pool.Node, r *request) (any, error) {
			ticker, err := n.NewTicker(ctx, string(r.Name), seconds(r.Seconds))
			if err != nil {
				return nil, err
			}
			t := &ticks{ticker: ticker}
			p.put(r.On, t)
			go func() {
				for range ticker.C {
					t.lock.Lock()
					t.count++
					t.lock.Unlock()
				}
			}()
			return nil, nil
		}),
		"ticker.count": func(_ context.Context, r *request) (any, error) {
			t := of[*ticks](p, r.On)
			t.lock.Lock()
			defer t.lock.Unlock()
			return t.count, nil
		},
		"ticker.stop": func(_ context.Context, r *request) (any, error) {
			of[*ticks](p, r.On).ticker.Stop()
			return nil, nil
		},
		"schedule.open": in(func(ctx context.Context, n *pool.Node, r *request) (any, error) {
			s := &producer{name: string(r.Name), plan: pool.JobPlan{StopAll: r.Flag}}
			for _, key := range plain(r.Items) {
				s.plan.Start = append(s.plan.Start, &pool.JobParam{Key: key, Payload: []byte(key)})
			}
			p.put(r.On, s)
			return nil, n.Schedule(ctx, s, seconds(r.Seconds))
		}),
		"schedule.calls": func(_ context.Context, r *request) (any, error) {
			s := of[*producer](p, r.On)
			s.lock.Lock()
			defer s.lock.Unlock()
			return s.calls, nil
		},
		"schedule.end": func(_ context.Context, r *request) (any, error) {
			s := of[*producer](p, r.On)
			s.lock.Lock()
			defer s.lock.Unlock()
			s.over = true
			return nil, nil
		},
	}
}
