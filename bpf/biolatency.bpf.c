// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Latency of block requests, per disk and by stage, from one program on
 * completion: the request carries the times at which it was allocated and
 * issued. Counted are the requests that /proc/diskstats counts.
 */
#include "lib/rows.bpf.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#define CLAIM_TRIES 4
#define GOLDEN_RATIO_64 0x61c8864680b583ebULL /* include/linux/hash.h */

char LICENSE[] SEC("license") = "GPL";

/* gendisk.disk_name, in words so that it is copied and compared in few instructions. */
union disk_name {
	u64 word[4];
	char text[32];
};

const volatile u32 disks = 64; /* rows with a name; two more take the rest */
const volatile u32 cpus = 1; /* rows per disk; 1: all CPUs share one */

const volatile union disk_name other = { .text = "other" };
const volatile union disk_name other_stacked = { .text = "other-stacked" };

/*
 * One per disk and CPU, a disk's rows adjacent. Between two requests all of it
 * leaves the cache, so what every request needs lies together.
 */
struct biolatency_row {
	union disk_name name; /* of the key: whose row this is */
	u64 latency_sum;
	u64 queue_sum;
	u64 total_sum;
	u64 unstamped; /* without a time of issue */
	u64 queue[HIST_US_BUCKETS]; /* allocation to issue */
	u64 latency[HIST_US_BUCKETS]; /* issue to completion */
	u64 total[HIST_US_BUCKETS]; /* allocation to completion */
	u64 lost; /* no key, or completed before they began */
} __attribute__((aligned(CACHE_LINE)));

MAPPED(rows, struct biolatency_row);

/* Whose rows these are. Written once, before used is set. */
struct biolatency_key {
	union disk_name name;
	u32 stacked; /* its requests reach another disk, which counts them too */
	u32 used;
} __attribute__((aligned(CACHE_LINE)));

MAPPED(keys, struct biolatency_key);

u32 next_index; /* where to look for a free key */

/* Which CPU may write a key: the one whose insertion succeeded. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1); /* as keys */
	__type(key, u32);
	__type(value, u32);
} claims SEC(".maps");

/* The index of a disk's key, by name. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1); /* as keys */
	__type(key, union disk_name);
	__type(value, u32);
} indices SEC(".maps");

static __always_inline bool same_name(const union disk_name *a, const union disk_name *b)
{
	return a->word[0] == b->word[0] && a->word[1] == b->word[1] && a->word[2] == b->word[2] &&
	       a->word[3] == b->word[3];
}

/* loop and request-based device mapper: the disks below count the same bytes */
static __always_inline u32 is_stacked(union disk_name *name)
{
	const char *c = name->text;

	return (c[0] == 'l' && c[1] == 'o' && c[2] == 'o' && c[3] == 'p') ||
	       (c[0] == 'd' && c[1] == 'm' && c[2] == '-');
}

static __always_inline void write_key(u32 index, const volatile union disk_name *name, u32 stacked)
{
	struct biolatency_key *key = bpf_map_lookup_elem(&keys, &index);

	if (!key)
		return;
	key->name = *name;
	key->stacked = stacked;
	barrier();
	key->used = 1;
}

static __always_inline bool claim(u32 index)
{
	u32 one = 1;

	return !bpf_map_update_elem(&claims, &index, &one, BPF_NOEXIST);
}

/*
 * A key for a disk not seen before: the preferred one, else the next free one,
 * else one of the two that take the rest. Of two CPUs that meet a new disk at
 * once the first to enter the name decides; where each took a key before, user
 * space adds up keys of one name. Negative where the search took too long: the
 * next request goes on where it ended.
 */
static __noinline int new_index(union disk_name *name, u32 preferred)
{
	u32 index = preferred, tries, stacked, *known;

	if (!name)
		return -1;
	stacked = is_stacked(name);
	for (tries = 0; tries < CLAIM_TRIES; tries++) {
		if (index >= disks) {
			index = disks + stacked;
			write_key(index, stacked ? &other_stacked : &other, stacked);
			break;
		}
		if (claim(index)) {
			write_key(index, name, stacked);
			break;
		}
		known = bpf_map_lookup_elem(&indices, name);
		if (known)
			return *known;
		index = next_index;
		next_index = index + (index < disks);
	}
	if (tries == CLAIM_TRIES)
		return -1;
	if (bpf_map_update_elem(&indices, name, &index, BPF_NOEXIST)) {
		known = bpf_map_lookup_elem(&indices, name);
		if (known)
			return *known;
	}
	return index;
}

static __always_inline struct biolatency_row *row_at(u32 index)
{
	index *= cpus;
	if (cpus > 1)
		index += bpf_get_smp_processor_id();
	return bpf_map_lookup_elem(&rows, &index);
}

/* Where the preferred row is not, or not yet, this disk's. */
static __noinline int find_index(union disk_name *name, u32 preferred)
{
	struct biolatency_row *row;
	u32 *known;
	int index;

	if (!name)
		return -1;
	known = bpf_map_lookup_elem(&indices, name);
	index = known ? (int)*known : new_index(name, preferred);
	row = row_at(index < 0 ? disks : index);
	if (!row)
		return -1;
	if (index < 0)
		count(&row->lost, 1, true);
	else if ((u32)index < disks)
		row->name = *name;
	return index;
}

/* The preferred row is where the hash of the name points; the name in it decides. */
static __always_inline struct biolatency_row *row_of(struct gendisk *disk)
{
	u64 *words = (u64 *)disk->disk_name;
	union disk_name name = { .word = { words[0], words[1], words[2], words[3] } };
	u32 hash = (name.word[0] ^ name.word[1]) * GOLDEN_RATIO_64 >> 32;
	u32 preferred = (u64)hash * disks >> 32;
	struct biolatency_row *row = row_at(preferred);
	int index;

	if (row && same_name(&row->name, &name))
		return row;
	index = find_index(&name, preferred);
	return index < 0 ? NULL : row_at(index);
}

/* As blk_account_io_done() decides. */
static __always_inline bool counted_by_diskstats(struct request *rq)
{
	u32 io_stat = 1 << 13, flush_seq = 1 << 4;

	if (bpf_core_type_exists(enum rqf_flags)) {
		io_stat = 1 << bpf_core_enum_value(enum rqf_flags, __RQF_IO_STAT);
		flush_seq = 1 << bpf_core_enum_value(enum rqf_flags, __RQF_FLUSH_SEQ);
	} else if (bpf_core_field_exists(struct queue_limits, features)) {
		/* 6.11 to 6.12: the enumeration has no name to look it up by */
		io_stat = 1 << __RQF_IO_STAT;
		flush_seq = 1 << __RQF_FLUSH_SEQ;
	}
	return (rq->rq_flags & (io_stat | flush_seq)) == io_stat;
}

static __always_inline struct gendisk *disk_of(struct request *rq)
{
	/* the kernel counts in the same cache line of part next, but reads nothing of rq->q */
	return bpf_core_field_exists(rq->rq_disk) ? rq->rq_disk : rq->part->bd_disk;
}

static __always_inline int completed(struct request *rq)
{
	u64 now, start = rq->start_time_ns, issue = rq->io_start_time_ns;
	u32 queue_bucket, latency_bucket, larger;
	struct biolatency_row *row;
	struct gendisk *disk;
	bool shared = cpus == 1;

	if (!counted_by_diskstats(rq))
		return 0;
	disk = disk_of(rq);
	row = disk ? row_of(disk) : NULL;
	if (!row)
		return 0;
	now = bpf_ktime_get_ns();
	if (!start || now < start || now < issue || (issue && issue < start)) {
		count(&row->lost, 1, shared);
		return 0;
	}
	count(&row->total_sum, now - start, shared);
	if (!issue) {
		count(&row->total[hist_us_bucket(now - start) & (HIST_US_BUCKETS - 1)], 1, shared);
		count(&row->unstamped, 1, shared);
		return 0;
	}
	count(&row->latency_sum, now - issue, shared);
	count(&row->queue_sum, issue - start, shared);
	latency_bucket = hist_us_bucket(now - issue) & (HIST_US_BUCKETS - 1);
	queue_bucket = hist_us_bucket(issue - start) & (HIST_US_BUCKETS - 1);
	larger = latency_bucket > queue_bucket ? latency_bucket : queue_bucket;
	barrier(); /* readers take unchanged sums for an unchanged row */
	count(&row->latency[latency_bucket], 1, shared);
	count(&row->queue[queue_bucket], 1, shared);
	count(&row->total[hist_us_bucket_of_sum(larger, now - start) & (HIST_US_BUCKETS - 1)], 1,
	      shared);
	return 0;
}

/* from 6.5, commit 5a80bd075f3b: once per request, where diskstats counts it */
SEC("tp_btf/block_io_done")
int BPF_PROG(on_io_done, struct request *rq)
{
	return completed(rq);
}

/* once per completed part: the last one leaves nothing */
SEC("tp_btf/block_rq_complete")
int BPF_PROG(on_rq_complete, struct request *rq, int error, unsigned int bytes)
{
	return rq->__data_len > bytes || !rq->part ? 0 : completed(rq);
}
