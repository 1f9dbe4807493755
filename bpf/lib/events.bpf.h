/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Events that go to user space one by one, through a ring buffer. What happened
 * is counted in the row of the CPU, what found no room too.
 */
#ifndef PMDA_BPF_EVENTS_H
#define PMDA_BPF_EVENTS_H

#include "lib/rows.bpf.h"

#define TASK_COMM_LEN 16 /* include/linux/sched.h */

/* The ring. The loader sets its size. */
#define EVENTS(map)                                 \
	struct {                                    \
		__uint(type, BPF_MAP_TYPE_RINGBUF); \
		__uint(max_entries, 4096);          \
	} map SEC(".maps")

/* One per CPU; several programs may write to it. */
struct event_row {
	u64 count; /* events, those that were lost among them */
	u64 lost; /* found no room */
} __attribute__((aligned(CACHE_LINE)));

MAPPED(rows, struct event_row);
EVENTS(events);

/* Memory to make an event in that is too large for the stack. */
#define SCRATCH(map, event)                              \
	struct {                                         \
		__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); \
		__uint(max_entries, 1);                  \
		__type(key, u32);                        \
		__type(value, event);                    \
	} map SEC(".maps")

/* The first len bytes of an event go to user space. */
static __always_inline void submit(void *event, u64 len)
{
	u32 cpu = bpf_get_smp_processor_id();
	struct event_row *row = bpf_map_lookup_elem(&rows, &cpu);
	long error = bpf_ringbuf_output(&events, event, len, 0);

	if (!row)
		return;
	count(&row->count, 1, true);
	if (error)
		count(&row->lost, 1, true);
}

/* An event happened that nothing can be said about. */
static __always_inline void missed(void)
{
	u32 cpu = bpf_get_smp_processor_id();
	struct event_row *row = bpf_map_lookup_elem(&rows, &cpu);

	if (!row)
		return;
	count(&row->count, 1, true);
	count(&row->lost, 1, true);
}

#endif
