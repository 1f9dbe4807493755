// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Latency of block requests, per disk and by stage, from one program on
 * completion: the request carries the times at which it was allocated and
 * issued. Counted are the requests that /proc/diskstats counts.
 */
#include "lib/rows.bpf.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#define MAX_DISKS 1024
#define CLAIM_TRIES 4

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

/* One per disk and CPU, a disk's rows adjacent. */
struct biolatency_row {
	struct hist_us latency; /* issue to completion */
	struct hist_us queue; /* allocation to issue */
	struct hist_us total; /* allocation to completion */
	u64 unstamped; /* without a time of issue */
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

u32 next_index; /* the first key that nobody has claimed */

/* Which CPU may write a key: the one whose insertion succeeded. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_DISKS);
	__type(key, u32);
	__type(value, u32);
} claims SEC(".maps");

/* The index of a disk's key, by name. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_DISKS);
	__type(key, union disk_name);
	__type(value, u32);
} indices SEC(".maps");

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

/*
 * A key for a disk not seen before: the next free one, else one of the two
 * that take the rest. Two CPUs that meet a new disk at once take a key each;
 * user space adds up keys of one name. Negative where too many met at once.
 */
static __noinline int new_index(union disk_name *name)
{
	u32 index, tries, stacked, one = 1;

	if (!name)
		return -1;
	stacked = is_stacked(name);
	for (tries = 0; tries < CLAIM_TRIES; tries++) {
		index = next_index;
		if (index >= disks) {
			index = disks + stacked;
			write_key(index, stacked ? &other_stacked : &other, stacked);
			goto found;
		}
		/* whoever inserts owns the key; the others see the next one here */
		if (!bpf_map_update_elem(&claims, &index, &one, BPF_NOEXIST)) {
			next_index = index + 1;
			write_key(index, name, stacked);
			goto found;
		}
	}
	return -1;
found:
	bpf_map_update_elem(&indices, name, &index, 0);
	return index;
}

static __always_inline int index_of(struct gendisk *disk)
{
	u64 *words = (u64 *)disk->disk_name;
	union disk_name name = { .word = { words[0], words[1], words[2], words[3] } };
	u32 *known = bpf_map_lookup_elem(&indices, &name);

	return known ? (int)*known : new_index(&name);
}

/* As blk_account_io_done() decides. */
static __always_inline bool counted_by_diskstats(struct request *rq)
{
	u32 io_stat = 1 << 13, flush_seq = 1 << 4;

	if (bpf_core_type_exists(enum rqf_flags)) {
		io_stat = 1 << bpf_core_enum_value(enum rqf_flags, __RQF_IO_STAT);
		flush_seq = 1 << bpf_core_enum_value(enum rqf_flags, __RQF_FLUSH_SEQ);
	}
	return (rq->rq_flags & (io_stat | flush_seq)) == io_stat;
}

static __always_inline struct gendisk *disk_of(struct request *rq)
{
	return bpf_core_field_exists(rq->rq_disk) ? rq->rq_disk : rq->q->disk;
}

static __always_inline int completed(struct request *rq)
{
	u64 now = bpf_ktime_get_ns(), start = rq->start_time_ns, issue = rq->io_start_time_ns;
	struct biolatency_row *row;
	struct gendisk *disk;
	u32 index;
	int key;

	if (!counted_by_diskstats(rq))
		return 0;
	disk = disk_of(rq);
	if (!disk)
		return 0;
	key = index_of(disk);
	index = (key < 0 ? disks : key) * cpus;
	if (cpus > 1)
		index += bpf_get_smp_processor_id();
	row = bpf_map_lookup_elem(&rows, &index);
	if (!row)
		return 0;
	if (key < 0 || !start || now < start || now < issue || (issue && issue < start)) {
		__sync_fetch_and_add(&row->lost, 1);
		return 0;
	}
	hist_us_add_atomic(&row->total, now - start);
	if (!issue) {
		__sync_fetch_and_add(&row->unstamped, 1);
		return 0;
	}
	hist_us_add_atomic(&row->latency, now - issue);
	hist_us_add_atomic(&row->queue, issue - start);
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
