package main

import (
	"context"
	"fmt"
	"sort"
	"time"

	"github.com/hibiken/asynq"
)

func (p *program) inspectorCommands() map[string]command {
	return map[string]command{
		"queues": p.queues, "queue": p.queue, "task": p.info, "tasks": p.tasks, "act": p.act,
		"act_all": p.actAll, "history": p.history, "groups": p.groups, "servers": p.servers,
		"entries": p.entries, "events": p.events, "slot": p.slot,
	}
}

func (p *program) queues(context.Context, *request) (any, error) {
	names, err := p.inspector.Queues()
	sort.Strings(names)
	return names, err
}

func (p *program) queue(_ context.Context, r *request) (any, error) {
	q, err := p.inspector.GetQueueInfo(r.Queue)
	if err != nil {
		return nil, err
	}
	return map[string]any{
		"size": q.Size, "groups": q.Groups, "pending": q.Pending, "active": q.Active,
		"scheduled": q.Scheduled, "retry": q.Retry, "archived": q.Archived,
		"completed": q.Completed, "aggregating": q.Aggregating, "processed": q.Processed,
		"failed": q.Failed, "processed_total": q.ProcessedTotal, "failed_total": q.FailedTotal,
		"paused": q.Paused,
	}, nil
}

func (p *program) info(_ context.Context, r *request) (any, error) {
	info, err := p.inspector.GetTaskInfo(r.Queue, r.Task)
	if err != nil {
		return nil, err
	}
	return describe(info), nil
}

func (p *program) tasks(_ context.Context, r *request) (any, error) {
	page := []asynq.ListOption{asynq.Page(max(r.Page, 1)), asynq.PageSize(max(r.Size, 30))}
	lists := map[string]func(string, ...asynq.ListOption) ([]*asynq.TaskInfo, error){
		"pending": p.inspector.ListPendingTasks, "active": p.inspector.ListActiveTasks,
		"scheduled": p.inspector.ListScheduledTasks, "retry": p.inspector.ListRetryTasks,
		"archived": p.inspector.ListArchivedTasks, "completed": p.inspector.ListCompletedTasks,
		"aggregating": func(q string, o ...asynq.ListOption) ([]*asynq.TaskInfo, error) {
			return p.inspector.ListAggregatingTasks(q, r.Group, o...)
		},
	}
	found, err := lists[r.State](r.Queue, page...)
	all := []map[string]any{}
	for _, each := range found {
		all = append(all, describe(each))
	}
	return all, err
}

// act does something to one task or queue.
func (p *program) act(_ context.Context, r *request) (any, error) {
	switch r.Type {
	case "run":
		return nil, p.inspector.RunTask(r.Queue, r.Task)
	case "archive":
		return nil, p.inspector.ArchiveTask(r.Queue, r.Task)
	case "delete":
		return nil, p.inspector.DeleteTask(r.Queue, r.Task)
	case "update":
		return nil, p.inspector.UpdateTaskPayload(r.Queue, r.Task, []byte(r.Payload))
	case "cancel":
		return nil, p.inspector.CancelProcessing(r.Task)
	case "pause":
		return nil, p.inspector.PauseQueue(r.Queue)
	case "unpause":
		return nil, p.inspector.UnpauseQueue(r.Queue)
	case "delete_queue":
		return nil, p.inspector.DeleteQueue(r.Queue, r.Flag)
	}
	return nil, fmt.Errorf("no action %q", r.Type)
}

// actAll does something to all tasks of a state, and returns to how many.
func (p *program) actAll(_ context.Context, r *request) (any, error) {
	i := p.inspector
	all := map[string]func(string) (int, error){
		"run scheduled": i.RunAllScheduledTasks, "run retry": i.RunAllRetryTasks,
		"run archived": i.RunAllArchivedTasks, "archive pending": i.ArchiveAllPendingTasks,
		"archive scheduled": i.ArchiveAllScheduledTasks, "archive retry": i.ArchiveAllRetryTasks,
		"delete pending": i.DeleteAllPendingTasks, "delete scheduled": i.DeleteAllScheduledTasks,
		"delete retry": i.DeleteAllRetryTasks, "delete archived": i.DeleteAllArchivedTasks,
		"delete completed": i.DeleteAllCompletedTasks,
	}
	do, ok := all[r.Type+" "+r.State]
	if !ok {
		return nil, fmt.Errorf("no action %q for all that are %q", r.Type, r.State)
	}
	return do(r.Queue)
}

func (p *program) history(_ context.Context, r *request) (any, error) {
	days, err := p.inspector.History(r.Queue, r.Count)
	all := []map[string]any{}
	for _, day := range days {
		all = append(all, map[string]any{
			"date": day.Date.Format(time.DateOnly), "processed": day.Processed, "failed": day.Failed,
		})
	}
	return all, err
}

func (p *program) groups(_ context.Context, r *request) (any, error) {
	found, err := p.inspector.Groups(r.Queue)
	sizes := map[string]int{}
	for _, each := range found {
		sizes[each.Group] = each.Size
	}
	return sizes, err
}

func (p *program) servers(context.Context, *request) (any, error) {
	found, err := p.inspector.Servers()
	all := []map[string]any{}
	for _, s := range found {
		workers := []map[string]any{}
		for _, w := range s.ActiveWorkers {
			workers = append(workers, map[string]any{
				"task": w.TaskID, "type": w.TaskType, "payload": text(w.TaskPayload), "queue": w.Queue,
				"started": w.Started.Unix(), "deadline": w.Deadline.Unix(),
			})
		}
		all = append(all, map[string]any{
			"id": s.ID, "host": s.Host, "pid": s.PID, "concurrency": s.Concurrency,
			"queues": s.Queues, "strict": s.StrictPriority, "status": s.Status,
			"started": s.Started.Unix(), "workers": workers,
		})
	}
	return all, err
}

func (p *program) entries(context.Context, *request) (any, error) {
	found, err := p.inspector.SchedulerEntries()
	all := []map[string]any{}
	for _, e := range found {
		options := []string{}
		for _, o := range e.Opts {
			options = append(options, o.String())
		}
		all = append(all, map[string]any{
			"id": e.ID, "spec": e.Spec, "type": e.Task.Type(), "payload": text(e.Task.Payload()),
			"options": options, "next": e.Next.Unix(), "prev_is_zero": e.Prev.IsZero(),
		})
	}
	return all, err
}

func (p *program) events(_ context.Context, r *request) (any, error) {
	found, err := p.inspector.ListSchedulerEnqueueEvents(r.On)
	ids := []string{}
	for _, e := range found {
		ids = append(ids, e.TaskID)
	}
	return ids, err
}

func (p *program) slot(_ context.Context, r *request) (any, error) {
	slot, err := p.inspector.ClusterKeySlot(r.Queue)
	return slot, err
}
