/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The kernel types that the programs read, each with only the fields read.
 * preserve_access_index makes every access a CO-RE relocation: libbpf looks the
 * field up in the BTF of the running kernel, so offsets, order and the fields
 * left out here do not matter. A field that only some kernels have stands here
 * all the same and is read behind bpf_core_field_exists(). A flavour, a type of
 * its own for older kernels (its name ends in ___word, which libbpf drops when
 * it matches), is needed only where a field changed its type: libbpf searches
 * the whole BTF for every type, about 1 ms each.
 */
#ifndef PMDA_BPF_KERNEL_H
#define PMDA_BPF_KERNEL_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u64 __be64;
typedef __u32 __wsum;

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __s32 s32;
typedef __u64 u64;
typedef __s64 s64;
typedef _Bool bool;
enum { false = 0, true = 1 };
#define NULL ((void *)0)

/* include/uapi/linux/bpf.h */
enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_QUEUE = 22,
	BPF_MAP_TYPE_RINGBUF = 27,
	BPF_F_MMAPABLE = 1 << 10,
	BPF_NOEXIST = 1,
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	int counter;
} atomic_t;

struct mm_struct {
	unsigned long arg_start;
	unsigned long arg_end;
};

struct signal_struct {
	atomic_t live;
};

struct task_struct {
	int pid;
	int tgid;
	unsigned int __state;
	volatile long state; /* before 5.14, commit 2f064a59a11f */
	struct task_struct *real_parent;
	struct signal_struct *signal;
	struct mm_struct *mm;
};

struct linux_binprm;

struct sock_common {
	unsigned short skc_family;
};

struct sock {
	struct sock_common __sk_common;
	u16 sk_protocol; /* 8 bits wide before 5.6, a bit field */
};

struct socket {
	struct sock *sk;
};

struct trace_event_raw_sys_enter {
	long id;
	unsigned long args[6];
};

struct trace_event_raw_sys_exit {
	long id;
	long ret;
};

struct gendisk {
	char disk_name[32];
};

struct block_device {
	struct gendisk *bd_disk;
};

struct request {
	u32 rq_flags;
	u32 __data_len;
	struct block_device *part; /* another type where there is rq_disk */
	u64 start_time_ns;
	u64 io_start_time_ns;
	struct gendisk *rq_disk; /* before 5.17, commit f3fa33acca9f */
};

struct queue_limits {
	u32 features; /* from 6.11 on, commit 1122c0c1cc71 */
};

#pragma clang attribute pop

/*
 * include/linux/blk-mq.h: macros with other values before 6.11, commit
 * 5f89154e8e9e, then an enumeration with these values, at first without a name.
 */
enum rqf_flags {
	__RQF_FLUSH_SEQ = 1,
	__RQF_IO_STAT = 8,
};

#endif
