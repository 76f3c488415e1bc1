package main

import (
	"context"
	"time"

	"github.com/hibiken/asynq"
)

func (p *program) clientCommands() map[string]command {
	return map[string]command{"enqueue": p.enqueue}
}

// task returns what a request describes.
func task(r *request) (*asynq.Task, []asynq.Option) {
	made := asynq.NewTask(r.Type, []byte(r.Payload))
	if r.Headers != nil {
		made = asynq.NewTaskWithHeaders(r.Type, []byte(r.Payload), r.Headers)
	}
	var opts []asynq.Option
	add := func(wanted bool, o asynq.Option) {
		if wanted {
			opts = append(opts, o)
		}
	}
	add(r.Queue != "", asynq.Queue(r.Queue))
	if r.Retry != nil {
		opts = append(opts, asynq.MaxRetry(*r.Retry))
	}
	add(r.Timeout != 0, asynq.Timeout(seconds(r.Timeout)))
	add(r.Deadline != 0, asynq.Deadline(time.Unix(r.Deadline, 0)))
	add(r.Unique != 0, asynq.Unique(seconds(r.Unique)))
	add(r.At != 0, asynq.ProcessAt(time.Unix(r.At, 0)))
	add(r.In != 0, asynq.ProcessIn(seconds(r.In)))
	add(r.Task != "", asynq.TaskID(r.Task))
	add(r.Retention != 0, asynq.Retention(seconds(r.Retention)))
	add(r.Group != "", asynq.Group(r.Group))
	return made, opts
}

func (p *program) enqueue(ctx context.Context, r *request) (any, error) {
	made, opts := task(r)
	info, err := p.client.EnqueueContext(ctx, made, opts...)
	if err != nil {
		return nil, err
	}
	return describe(info), nil
}

// describe says what asynq knows of a task.
func describe(info *asynq.TaskInfo) map[string]any {
	unix := func(t time.Time) int64 {
		if t.IsZero() {
			return 0
		}
		return t.Unix()
	}
	return map[string]any{
		"id": info.ID, "queue": info.Queue, "type": info.Type, "payload": text(info.Payload),
		"state": info.State.String(), "max_retry": info.MaxRetry, "retried": info.Retried,
		"last_error": text(info.LastErr), "timeout": info.Timeout.Seconds(),
		"deadline": unix(info.Deadline), "group": info.Group, "result": text(info.Result),
		"next_at": unix(info.NextProcessAt), "completed_at": unix(info.CompletedAt),
		"retention": info.Retention.Seconds(), "headers": info.Headers,
		"is_orphaned": info.IsOrphaned,
	}
}
