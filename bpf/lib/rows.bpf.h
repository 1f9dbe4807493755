/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Rows of counters in arrays that user space maps into its memory and reads
 * without a system call. A histogram x is an array of a row, x, and the sum of
 * its samples in nanoseconds, x_sum. Bucket i holds the values from 2^i to
 * 2^(i+1)-1, bucket 0 also the value 0, the last is open.
 */
#ifndef PMDA_BPF_ROWS_H
#define PMDA_BPF_ROWS_H

#include "kernel.h"

#include <bpf/bpf_helpers.h>

#define CACHE_LINE 64

/* An array that user space maps. The loader sets the number of entries. */
#define MAPPED(map, row)                           \
	struct {                                   \
		__uint(type, BPF_MAP_TYPE_ARRAY);  \
		__uint(map_flags, BPF_F_MMAPABLE); \
		__uint(max_entries, 1);            \
		__type(key, u32);                  \
		__type(value, row);                \
	} map SEC(".maps")

/* 1 if value > bound, without a branch. Both are below 2^63, as every duration is. */
static __always_inline u64 exceeds(u64 value, u64 bound)
{
	return (bound - value) >> 63;
}

/*
 * Branches would be mispredicted about every other time, and the verifier
 * would follow each of the 64 ways through them.
 */
static __always_inline u32 log2_u64(u64 value)
{
	u64 log, shift;

	log = exceeds(value, 0xffffffff) << 5;
	value >>= log;
	shift = exceeds(value, 0xffff) << 4;
	value >>= shift;
	log += shift;
	shift = exceeds(value, 0xff) << 3;
	value >>= shift;
	log += shift;
	shift = exceeds(value, 0xf) << 2;
	value >>= shift;
	log += shift;
	shift = exceeds(value, 3) << 1;
	value >>= shift;
	return log + shift + (value >> 1);
}

#define HIST_NS_BUCKETS 64 /* 292 years */
#define HIST_US_BUCKETS 32 /* the last begins at 2^31, 35 minutes */

static __always_inline u32 hist_ns_bucket(u64 ns)
{
	return log2_u64(ns) & (HIST_NS_BUCKETS - 1);
}

/*
 * The bucket of a duration in microseconds, without dividing: 1000 lies between
 * 2^9 and 2^10, so the answer is log2(ns) less 9 or 10, and one comparison tells.
 */
static __always_inline u32 hist_us_bucket(u64 ns)
{
	u32 bucket;

	if (ns < 2000)
		return 0;
	bucket = log2_u64(ns) - 9;
	bucket -= exceeds(1000ULL << (bucket & 63), ns);
	return bucket < HIST_US_BUCKETS ? bucket : HIST_US_BUCKETS - 1;
}

/* The bucket of a sum of two durations, of which this is the larger one's bucket. */
static __always_inline u32 hist_us_bucket_of_sum(u32 larger, u64 ns)
{
	return larger + (larger < HIST_US_BUCKETS - 1 && ns >= 2000ULL << larger);
}

/*
 * shared: other CPUs write to the row too. A row of one CPU needs no atomics:
 * the kernel does not run a program while it is running on that CPU (before
 * 6.2, commit 05b24ff9b2cf, an interrupt between load and store could undo one).
 */
static __always_inline void count(u64 *counter, u64 by, bool shared)
{
	if (shared)
		__sync_fetch_and_add(counter, by);
	else
		*counter += by;
}

#endif
