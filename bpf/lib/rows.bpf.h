/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Rows of counters in arrays that user space maps into its memory and reads
 * without a system call. Histograms count powers of two: bucket i holds the
 * values from 2^i to 2^(i+1)-1, bucket 0 also the value 0, the last is open.
 */
#ifndef PMDA_BPF_ROWS_H
#define PMDA_BPF_ROWS_H

#include "kernel.h"

#include <bpf/bpf_helpers.h>

#define CACHE_LINE 64

/* An array that user space maps. The loader sets the number of entries. */
#define MAPPED(map, row)                            \
	struct {                                    \
		__uint(type, BPF_MAP_TYPE_ARRAY);   \
		__uint(map_flags, BPF_F_MMAPABLE);  \
		__uint(max_entries, 1);             \
		__type(key, u32);                   \
		__type(value, row);                 \
	} map SEC(".maps")

/* Nanoseconds; 63 bits are enough for 292 years. */
struct hist_ns {
	u64 bucket[64];
	u64 sum;
};

/* Microseconds; the last bucket begins at 2^31, 35 minutes. */
struct hist_us {
	u64 bucket[32];
	u64 sum; /* nanoseconds */
};

static __always_inline u32 log2_u64(u64 value)
{
	u32 log = 0;

	if (value >> 32) {
		value >>= 32;
		log = 32;
	}
	if (value >> 16) {
		value >>= 16;
		log += 16;
	}
	if (value >> 8) {
		value >>= 8;
		log += 8;
	}
	if (value >> 4) {
		value >>= 4;
		log += 4;
	}
	if (value >> 2) {
		value >>= 2;
		log += 2;
	}
	return log + (value >> 1);
}

/* For rows that one CPU alone writes, with interrupts off. */
static __always_inline void hist_ns_add(struct hist_ns *hist, u64 ns)
{
	hist->bucket[log2_u64(ns) & 63]++;
	hist->sum += ns;
}

/* Not static: the verifier looks at a global function once, not at every call. */
__weak __noinline u32 hist_us_bucket(u64 ns)
{
	u32 bucket = log2_u64(ns / 1000);

	return bucket < 32 ? bucket : 31;
}

/* For rows that may be written to from several contexts at once. */
static __always_inline void hist_us_add_atomic(struct hist_us *hist, u64 ns)
{
	__sync_fetch_and_add(&hist->bucket[hist_us_bucket(ns) & 31], 1);
	__sync_fetch_and_add(&hist->sum, ns);
}

#endif
