// SPDX-License-Identifier: GPL-2.0-or-later
/* A program that does nothing: what running a program costs by itself. */
#include "lib/rows.bpf.h"

#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "GPL";

struct empty_row {
	u64 events;
	u64 lost;
} __attribute__((aligned(CACHE_LINE)));

MAPPED(rows, struct empty_row);

SEC("tp_btf/block_io_done")
int BPF_PROG(on_io_empty)
{
	return 0;
}
