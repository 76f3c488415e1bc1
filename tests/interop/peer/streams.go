package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"goa.design/pulse/streaming"
	"goa.design/pulse/streaming/options"
)

// event is how an event is told.
type event struct {
	ID      string `json:"id"`
	Stream  string `json:"stream"`
	Name    text   `json:"name"`
	Topic   text   `json:"topic"`
	Payload text   `json:"payload"`
	Millis  int64  `json:"millis"`
}

// receiver is the one subscriber of a reader or sink, and what it was given.
type receiver struct {
	sink  *streaming.Sink
	from  <-chan *streaming.Event
	close func(context.Context)
	lock  sync.Mutex
	held  map[string]*streaming.Event
}

// take waits for so many events, or until the time is over, and returns what has come.
func (c *receiver) take(count int, patience time.Duration) []event {
	taken := []event{}
	over := time.After(patience)
	for len(taken) < count {
		select {
		case e, ok := <-c.from:
			if !ok {
				return taken
			}
			c.lock.Lock()
			c.held[e.ID] = e
			c.lock.Unlock()
			taken = append(taken, event{
				ID: e.ID, Stream: e.StreamName, Name: text(e.EventName), Topic: text(e.Topic),
				Payload: text(e.Payload), Millis: e.CreatedAt().UnixMilli(),
			})
		case <-over:
			return taken
		}
	}
	return taken
}

// streamCommands are those on streams, readers and sinks.
func (p *program) streamCommands() map[string]command {
	return map[string]command{
		"stream.open": func(_ context.Context, r *request) (any, error) {
			var all []options.Stream
			if r.Number > 0 {
				all = append(all, options.WithStreamMaxLen(r.Number))
			}
			if r.TTL > 0 && r.Sliding {
				all = append(all, options.WithStreamSlidingTTL(seconds(r.TTL)))
			} else if r.TTL > 0 {
				all = append(all, options.WithStreamTTL(seconds(r.TTL)))
			}
			stream, err := streaming.NewStream(string(r.Name), p.rdb, all...)
			if err == nil {
				p.put(r.On, stream)
			}
			return nil, err
		},
		"stream.add": func(ctx context.Context, r *request) (any, error) {
			var all []options.AddEvent
			if r.Topic != "" {
				all = append(all, options.WithTopic(string(r.Topic)))
			}
			if r.Flag {
				all = append(all, options.WithOnlyIfStreamExists())
			}
			return of[*streaming.Stream](p, r.On).Add(ctx, string(r.Name), []byte(r.Value), all...)
		},
		"stream.remove": func(ctx context.Context, r *request) (any, error) {
			return nil, of[*streaming.Stream](p, r.On).Remove(ctx, plain(r.Items)...)
		},
		"stream.destroy": func(ctx context.Context, r *request) (any, error) {
			return nil, of[*streaming.Stream](p, r.On).Destroy(ctx)
		},
		"reader.open":  p.openReader,
		"reader.close": p.closeReceiver,
		"reader.take":  p.take,
		"sink.open":    p.openSink,
		"sink.close":   p.closeReceiver,
		"sink.take":    p.take,
		"sink.add": func(ctx context.Context, r *request) (any, error) {
			stream := of[*streaming.Stream](p, r.In)
			return nil, of[*receiver](p, r.On).sink.AddStream(ctx, stream, options.WithAddStreamStartAtOldest())
		},
		"sink.remove": func(ctx context.Context, r *request) (any, error) {
			return nil, of[*receiver](p, r.On).sink.RemoveStream(ctx, of[*streaming.Stream](p, r.In))
		},
		"sink.ack": func(ctx context.Context, r *request) (any, error) {
			c := of[*receiver](p, r.On)
			for _, id := range plain(r.Items) {
				c.lock.Lock()
				e := c.held[id]
				c.lock.Unlock()
				if e == nil {
					return nil, errors.New("no such event was taken: " + id)
				}
				if err := c.sink.Ack(ctx, e); err != nil {
					return nil, err
				}
			}
			return nil, nil
		},
	}
}

func (p *program) openReader(ctx context.Context, r *request) (any, error) {
	all := []options.Reader{options.WithReaderBlockDuration(200 * time.Millisecond)}
	switch {
	case r.Start == "oldest":
		all = append(all, options.WithReaderStartAtOldest())
	case r.Start != "":
		all = append(all, options.WithReaderStartAfter(r.Start))
	case r.At != 0:
		all = append(all, options.WithReaderStartAt(time.UnixMilli(r.At)))
	}
	if r.Topic != "" {
		all = append(all, options.WithReaderTopic(string(r.Topic)))
	}
	if r.Pattern != "" {
		all = append(all, options.WithReaderTopicPattern(r.Pattern))
	}
	reader, err := of[*streaming.Stream](p, r.In).NewReader(ctx, all...)
	if err != nil {
		return nil, err
	}
	p.put(r.On, &receiver{
		from: reader.Subscribe(), close: func(context.Context) { reader.Close() },
		held: map[string]*streaming.Event{},
	})
	return nil, nil
}

func (p *program) openSink(ctx context.Context, r *request) (any, error) {
	all := []options.Sink{options.WithSinkBlockDuration(200 * time.Millisecond)}
	switch {
	case r.Start == "oldest":
		all = append(all, options.WithSinkStartAtOldest())
	case r.Start != "":
		all = append(all, options.WithSinkStartAfter(r.Start))
	}
	if r.Topic != "" {
		all = append(all, options.WithSinkTopic(string(r.Topic)))
	}
	if r.Pattern != "" {
		all = append(all, options.WithSinkTopicPattern(r.Pattern))
	}
	if r.Grace > 0 {
		all = append(all, options.WithSinkAckGracePeriod(seconds(r.Grace)))
	}
	if r.Number > 0 {
		all = append(all, options.WithSinkMaxPolled(int64(r.Number)))
	}
	if r.Flag {
		all = append(all, options.WithSinkNoAck())
	}
	sink, err := of[*streaming.Stream](p, r.In).NewSink(ctx, string(r.Name), all...)
	if err != nil {
		return nil, err
	}
	p.put(r.On, &receiver{
		sink: sink, from: sink.Subscribe(), close: sink.Close, held: map[string]*streaming.Event{},
	})
	return nil, nil
}

func (p *program) closeReceiver(ctx context.Context, r *request) (any, error) {
	of[*receiver](p, r.On).close(ctx)
	return nil, nil
}

func (p *program) take(_ context.Context, r *request) (any, error) {
	return of[*receiver](p, r.On).take(r.Number, seconds(r.Seconds)), nil
}
