// SPDX-License-Identifier: GPL-2.0-or-later
/* Programs that fail in the ways that programs fail, and one that runs. */
#include "lib/rows.bpf.h"

#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "GPL";

struct failures_row {
	u64 events;
	u64 lost;
} __attribute__((aligned(CACHE_LINE)));

MAPPED(rows, struct failures_row);

SEC("tp_btf/no_such_tracepoint")
int BPF_PROG(on_nothing)
{
	return 0;
}

/* the index is not bounded */
SEC("tp_btf/sched_switch")
int BPF_PROG(on_refused, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	u32 zero = 0;
	struct failures_row *row = bpf_map_lookup_elem(&rows, &zero);

	if (row)
		(&row->events)[next->pid]++;
	return 0;
}

SEC("tp_btf/sched_switch")
int BPF_PROG(on_switch, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	u32 cpu = bpf_get_smp_processor_id();
	struct failures_row *row = bpf_map_lookup_elem(&rows, &cpu);

	if (row)
		row->events++;
	return 0;
}
