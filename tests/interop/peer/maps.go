package main

import (
	"context"
	"sync"

	"goa.design/pulse/rmap"
)

// changes are the kinds that a subscription has told so far.
type changes struct {
	lock  sync.Mutex
	kinds []string
}

func (c *changes) follow(events <-chan rmap.EventKind) {
	names := map[rmap.EventKind]string{
		rmap.EventChange: "set", rmap.EventDelete: "delete", rmap.EventReset: "reset",
	}
	for kind := range events {
		c.lock.Lock()
		c.kinds = append(c.kinds, names[kind])
		c.lock.Unlock()
	}
}

// mapCommands are those on replicated maps. A swap is answered as [previous, done].
func (p *program) mapCommands() map[string]command {
	on := func(do func(context.Context, *rmap.Map, *request) (any, error)) command {
		return func(ctx context.Context, r *request) (any, error) {
			return do(ctx, of[*rmap.Map](p, r.On), r)
		}
	}
	return map[string]command{
		"map.join": func(ctx context.Context, r *request) (any, error) {
			var options []rmap.MapOption
			if r.TTL > 0 && r.Sliding {
				options = append(options, rmap.WithSlidingTTL(seconds(r.TTL)))
			} else if r.TTL > 0 {
				options = append(options, rmap.WithTTL(seconds(r.TTL)))
			}
			m, err := rmap.Join(ctx, string(r.Name), p.rdb, options...)
			if err == nil {
				p.put(r.On, m)
			}
			return nil, err
		},
		"map.subscribe": func(_ context.Context, r *request) (any, error) {
			c := new(changes)
			p.put(r.On, c)
			go c.follow(of[*rmap.Map](p, r.In).Subscribe())
			return nil, nil
		},
		"map.changes": func(_ context.Context, r *request) (any, error) {
			c := of[*changes](p, r.On)
			c.lock.Lock()
			defer c.lock.Unlock()
			return append([]string{}, c.kinds...), nil
		},
		"map.close": on(func(_ context.Context, m *rmap.Map, _ *request) (any, error) {
			m.Close()
			return nil, nil
		}),
		"map.content": on(func(_ context.Context, m *rmap.Map, _ *request) (any, error) {
			content := [][2]text{}
			for key, value := range m.Map() {
				content = append(content, [2]text{text(key), text(value)})
			}
			return content, nil
		}),
		"map.get_values": on(func(_ context.Context, m *rmap.Map, r *request) (any, error) {
			values, ok := m.GetValues(string(r.Key))
			if !ok {
				return nil, nil
			}
			return texts(values), nil
		}),
		"map.set": on(func(ctx context.Context, m *rmap.Map, r *request) (any, error) {
			previous, existed, err := m.SetEx(ctx, string(r.Key), string(r.Value))
			return maybe(previous, existed), err
		}),
		"map.set_and_wait": on(func(ctx context.Context, m *rmap.Map, r *request) (any, error) {
			previous, err := m.SetAndWait(ctx, string(r.Key), string(r.Value))
			return text(previous), err
		}),
		"map.set_if_absent": on(func(ctx context.Context, m *rmap.Map, r *request) (any, error) {
			return m.SetIfNotExists(ctx, string(r.Key), string(r.Value))
		}),
		"map.test_and_set": on(func(ctx context.Context, m *rmap.Map, r *request) (any, error) {
			previous, existed, done, err := m.TestAndSetEx(ctx, string(r.Key), string(r.Test), string(r.Value))
			return []any{maybe(previous, existed), done}, err
		}),
		"map.increment": on(func(ctx context.Context, m *rmap.Map, r *request) (any, error) {
			return m.Inc(ctx, string(r.Key), r.Number)
		}),
		"map.append_values": on(func(ctx context.Context, m *rmap.Map, r *request) (any, error) {
			values, err := m.AppendValues(ctx, string(r.Key), plain(r.Items)...)
			return texts(values), err
		}),
		"map.append_unique_values": on(func(ctx context.Context, m *rmap.Map, r *request) (any, error) {
			values, err := m.AppendUniqueValues(ctx, string(r.Key), plain(r.Items)...)
			return texts(values), err
		}),
		"map.remove_values": on(func(ctx context.Context, m *rmap.Map, r *request) (any, error) {
			values, removed, err := m.RemoveValues(ctx, string(r.Key), plain(r.Items)...)
			return []any{texts(values), removed}, err
		}),
		"map.delete": on(func(ctx context.Context, m *rmap.Map, r *request) (any, error) {
			previous, existed, err := m.DeleteEx(ctx, string(r.Key))
			return maybe(previous, existed), err
		}),
		"map.test_and_delete": on(func(ctx context.Context, m *rmap.Map, r *request) (any, error) {
			previous, existed, done, err := m.TestAndDeleteEx(ctx, string(r.Key), string(r.Test))
			return []any{maybe(previous, existed), done}, err
		}),
		"map.test_and_reset": on(func(ctx context.Context, m *rmap.Map, r *request) (any, error) {
			return m.TestAndReset(ctx, plain(r.Items), plain(r.Tests))
		}),
		"map.reset": on(func(ctx context.Context, m *rmap.Map, _ *request) (any, error) {
			return nil, m.Reset(ctx)
		}),
		"map.destroy": on(func(ctx context.Context, m *rmap.Map, _ *request) (any, error) {
			return nil, m.Destroy(ctx)
		}),
	}
}
