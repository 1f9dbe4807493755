// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Run queue latency: the time a task waits for a CPU, from the moment it
 * becomes runnable (woken, created or preempted) until it is switched in.
 *
 * The three tracepoints fire under the run queue's lock with interrupts off:
 * nothing else on this CPU can write to its row meanwhile.
 */
#include "lib/rows.bpf.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#define STAMPS 65536

char LICENSE[] SEC("license") = "GPL";

/* One per CPU. */
struct runqlat_row {
	u64 latency_sum;
	u64 lost; /* switched in without a stamp: collision, or queued before we came */
	u64 latency[HIST_NS_BUCKETS];
} __attribute__((aligned(CACHE_LINE)));

MAPPED(rows, struct runqlat_row);

/*
 * When a task was queued, in the slot of its pid modulo STAMPS. The pid is the
 * tag: where pid_max is greater than STAMPS, two waiting tasks may meet in a
 * slot; the later one keeps it and the other's sample is lost, never wrong.
 */
struct stamp {
	u64 ktime;
	u32 pid;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, STAMPS);
	__type(key, u32);
	__type(value, struct stamp);
} stamps SEC(".maps");

static __always_inline struct stamp *stamp_of(u32 pid)
{
	u32 slot = pid % STAMPS;

	return bpf_map_lookup_elem(&stamps, &slot);
}

static __always_inline int queued(u32 pid)
{
	struct stamp *stamp;

	/* pid 0 are the idle tasks, one per CPU: they wait for nothing */
	if (!pid)
		return 0;
	stamp = stamp_of(pid);
	if (!stamp)
		return 0;
	stamp->pid = pid;
	stamp->ktime = bpf_ktime_get_ns();
	return 0;
}

static __always_inline bool runnable(struct task_struct *task)
{
	return bpf_core_field_exists(task->__state) ? task->__state == 0 : task->state == 0;
}

SEC("tp_btf/sched_wakeup")
int BPF_PROG(on_wakeup, struct task_struct *task)
{
	return queued(task->pid);
}

SEC("tp_btf/sched_wakeup_new")
int BPF_PROG(on_wakeup_new, struct task_struct *task)
{
	return queued(task->pid);
}

SEC("tp_btf/sched_switch")
int BPF_PROG(on_switch, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	u32 cpu = bpf_get_smp_processor_id();
	u32 pid = next->pid;
	struct runqlat_row *row;
	struct stamp *stamp;
	u64 now, since;

	/* a preempted task stays queued whatever its state says */
	if (preempt || runnable(prev))
		queued(prev->pid);
	if (!pid)
		return 0;
	stamp = stamp_of(pid);
	row = bpf_map_lookup_elem(&rows, &cpu);
	if (!stamp || !row)
		return 0;
	now = bpf_ktime_get_ns();
	since = stamp->ktime;
	if (stamp->pid != pid || !since || now < since) {
		row->lost++;
		return 0;
	}
	stamp->ktime = 0;
	row->latency_sum += now - since;
	barrier(); /* readers take an unchanged sum for an unchanged row */
	row->latency[hist_ns_bucket(now - since)]++;
	return 0;
}
