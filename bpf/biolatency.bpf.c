// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Latency of block requests, per disk and by stage, from one program on
 * completion: the request carries the times at which it was allocated and
 * issued. Counted are the requests that /proc/diskstats counts.
 */
#include "lib/rows.bpf.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#define NAME_WORDS 4
#define MAX_DISKS 1024
#define HINT_BITS 8
#define GOLDEN_RATIO_64 0x61c8864680b583ebULL /* include/linux/hash.h */

char LICENSE[] SEC("license") = "GPL";

const volatile u32 disks = 64; /* rows with a name; two more take the rest */
const volatile u32 cpus = 1; /* rows per disk; 1: all CPUs share one */

/* One per disk and CPU, a disk's rows adjacent. */
struct biolatency_row {
	struct hist_us latency; /* issue to completion */
	struct hist_us queue; /* allocation to issue */
	struct hist_us total; /* allocation to completion */
	u64 unstamped; /* without a time of issue */
	u64 lost; /* completed before they began: the clock lied */
} __attribute__((aligned(CACHE_LINE)));

MAPPED(rows, struct biolatency_row);

/* Whose rows these are. Written once, before used is set. */
struct biolatency_key {
	u64 name[NAME_WORDS]; /* gendisk.disk_name */
	u32 stacked; /* its requests reach another disk, which counts them too */
	u32 used;
} __attribute__((aligned(CACHE_LINE)));

MAPPED(keys, struct biolatency_key);

/* Which CPU may write a key: the one whose insertion succeeded. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_DISKS + 2);
	__type(key, u32);
	__type(value, u32);
} claims SEC(".maps");

/* Where a name was found last, by its hash; always verified. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << HINT_BITS);
	__type(key, u32);
	__type(value, u32);
} hints SEC(".maps");

static __always_inline bool same_name(struct biolatency_key *key, u64 *name)
{
	return key->name[0] == name[0] && key->name[1] == name[1] && key->name[2] == name[2] &&
	       key->name[3] == name[3];
}

static __always_inline bool claim(u32 index, struct biolatency_key *key, u64 *name, u32 stacked)
{
	u32 one = 1;

	if (bpf_map_update_elem(&claims, &index, &one, BPF_NOEXIST))
		return false;
	key->name[0] = name[0];
	key->name[1] = name[1];
	key->name[2] = name[2];
	key->name[3] = name[3];
	key->stacked = stacked;
	/* a compiler barrier is enough: x86 keeps the order of stores, and elsewhere a reader
	 * that sees used too early reads an empty name and looks again at its next request */
	barrier();
	key->used = 1;
	return true;
}

/* loop and request-based device mapper: the disks below count the same bytes */
static __always_inline u32 is_stacked(u64 *name)
{
	const char *c = (const char *)name;

	return (c[0] == 'l' && c[1] == 'o' && c[2] == 'o' && c[3] == 'p') ||
	       (c[0] == 'd' && c[1] == 'm' && c[2] == '-');
}

/*
 * The index of a disk's key: found by name, else the first free one, else one
 * of the two that take the rest. Two CPUs that meet a new disk at once may
 * each take a key; user space adds up keys of one name.
 */
static __noinline int find_key(u64 *name)
{
	struct biolatency_key *key;
	u32 index, stacked;

	if (!name)
		return 0;
	stacked = is_stacked(name);
	for (index = 0; index < MAX_DISKS && index < disks; index++) {
		u32 i = index;

		key = bpf_map_lookup_elem(&keys, &i);
		if (!key)
			break;
		if (key->used ? same_name(key, name) : claim(i, key, name, stacked))
			return i;
	}
	index = disks + stacked;
	key = bpf_map_lookup_elem(&keys, &index);
	if (key && !key->used) {
		u64 other[NAME_WORDS] = { stacked ? 0x74732d726568746fULL : 0x726568746fULL,
					  stacked ? 0x64656b6361ULL : 0 };
		claim(index, key, other, stacked);
	}
	return index;
}

static __always_inline u32 key_of(struct gendisk *disk)
{
	u64 *words = (u64 *)disk->disk_name;
	u64 name[NAME_WORDS] = { words[0], words[1], words[2], words[3] };
	u32 hash = ((name[0] ^ name[1]) * GOLDEN_RATIO_64) >> (64 - HINT_BITS);
	u32 *hint = bpf_map_lookup_elem(&hints, &hash);
	struct biolatency_key *key;
	u32 index;

	if (!hint)
		return 0;
	index = *hint;
	key = bpf_map_lookup_elem(&keys, &index);
	if (key && same_name(key, name))
		return index;
	index = find_key(name);
	*hint = index;
	return index;
}


/* As blk_account_io_done() decides. */
static __always_inline bool counted_by_diskstats(struct request *rq)
{
	u32 io_stat = 1 << 13, flush_seq = 1 << 4;

	if (bpf_core_type_exists(enum rqf_flags)) {
		io_stat = 1 << bpf_core_enum_value(enum rqf_flags, __RQF_IO_STAT);
		flush_seq = 1 << bpf_core_enum_value(enum rqf_flags, __RQF_FLUSH_SEQ);
	}
	return rq->part && (rq->rq_flags & (io_stat | flush_seq)) == io_stat;
}

static __always_inline struct gendisk *disk_of(struct request *rq)
{
	struct request___before_5_16 *old = (void *)rq;

	if (bpf_core_field_exists(old->rq_disk))
		return old->rq_disk;
	return rq->q->disk;
}

static __always_inline int completed(struct request *rq)
{
	u64 now = bpf_ktime_get_ns(), start = rq->start_time_ns, issue = rq->io_start_time_ns;
	struct biolatency_row *row;
	struct gendisk *disk;
	u32 index;

	if (!counted_by_diskstats(rq))
		return 0;
	disk = disk_of(rq);
	if (!disk)
		return 0;
	index = key_of(disk) * cpus;
	if (cpus > 1)
		index += bpf_get_smp_processor_id();
	row = bpf_map_lookup_elem(&rows, &index);
	if (!row)
		return 0;
	if (!start || now < start || now < issue || (issue && issue < start)) {
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
	return rq->__data_len > bytes ? 0 : completed(rq);
}
