// SPDX-License-Identifier: GPL-2.0-or-later
/* Runs of soft interrupt handlers and how long they took. They do not nest on a CPU. */
#include "lib/rows.bpf.h"

#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "GPL";

/* One per CPU. */
struct softirqs_row {
	u64 runs;
	u64 begin; /* of the run in progress; 0: none seen */
	u64 latency_sum;
	u64 lost; /* ended without a begin: entered before we came */
	u64 latency[HIST_NS_BUCKETS];
} __attribute__((aligned(CACHE_LINE)));

MAPPED(rows, struct softirqs_row);

SEC("tp_btf/softirq_entry")
int BPF_PROG(on_entry, unsigned int vec_nr)
{
	u32 cpu = bpf_get_smp_processor_id();
	struct softirqs_row *row = bpf_map_lookup_elem(&rows, &cpu);

	if (!row)
		return 0;
	row->runs++;
	row->begin = bpf_ktime_get_ns();
	return 0;
}

SEC("tp_btf/softirq_exit")
int BPF_PROG(on_exit, unsigned int vec_nr)
{
	u32 cpu = bpf_get_smp_processor_id();
	struct softirqs_row *row = bpf_map_lookup_elem(&rows, &cpu);
	u64 now, begin;

	if (!row)
		return 0;
	now = bpf_ktime_get_ns();
	begin = row->begin;
	row->begin = 0;
	if (!begin || now < begin) {
		row->lost++;
		return 0;
	}
	row->latency[hist_ns_bucket(now - begin)]++;
	row->latency_sum += now - begin;
	return 0;
}
