// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * New programs: every successful execve and execveat, read from the new image
 * of the process itself, and where asked for those that failed.
 */
#include "lib/events.bpf.h"
#include "lib/match.bpf.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#define ARGS_MAX 4096
#define FAILED_ARGS 60
#define UNROLLED 16

char LICENSE[] SEC("license") = "GPL";

enum { ARGS_FULL, ARGS_NAME, ARGS_OFF };

const volatile u32 args = ARGS_FULL;
const volatile u32 args_bytes = ARGS_MAX;
const volatile u32 max_args = ~0U;
const volatile u32 uid = ~0U;
const volatile u32 include_failed = 0;
const volatile struct automaton command = {};
const volatile struct automaton line = {};

struct execsnoop_event {
	u64 ktime;
	u32 pid;
	u32 ppid;
	u32 uid;
	s32 ret;
	u32 cut; /* the arguments go on */
	u32 len; /* of args as read */
	char comm[TASK_COMM_LEN];
	char args[ARGS_MAX]; /* each with its NUL */
};

/* Twice the room: the verifier sees the end of what is read at ARGS_MAX from any start. */
struct execsnoop_scratch {
	struct execsnoop_event event;
	char beyond[ARGS_MAX];
};

/* A program each: from 7.0 on one that is preempted may find another in its memory. */
SCRATCH(scratch, struct execsnoop_scratch);
SCRATCH(scratch_of_failed, struct execsnoop_scratch);

/* What a call of this thread that may fail was asked to do. */
struct attempt {
	const char *filename;
	const char *const *argv;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH); /* a thread killed in the call leaves its entry */
	__uint(max_entries, 4096);
	__type(key, u32);
	__type(value, struct attempt);
} attempts SEC(".maps");

static __always_inline u32 args_limit(void)
{
	return args_bytes < ARGS_MAX ? args_bytes : ARGS_MAX;
}

/* The event of this task but for its arguments; NULL where a filter leaves it out. */
static __always_inline struct execsnoop_event *begin(s32 ret)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct execsnoop_event *event;
	u32 zero = 0, own_uid = bpf_get_current_uid_gid();
	void *memory = ret ? (void *)&scratch_of_failed : (void *)&scratch;

	if (uid != ~0U && uid != own_uid)
		return NULL;
	event = bpf_map_lookup_elem(memory, &zero);
	if (!event)
		return NULL;
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	if (!matches(&command, event->comm, sizeof(event->comm)))
		return NULL;
	event->ktime = bpf_ktime_get_ns();
	event->pid = bpf_get_current_pid_tgid() >> 32;
	event->ppid = BPF_CORE_READ(task, real_parent, tgid);
	event->uid = own_uid;
	event->ret = ret;
	event->cut = 0;
	return event;
}

/* 1 if value is 0, without a branch: the verifier would follow both ways of each byte. */
static __always_inline u64 is_zero(u64 value)
{
	u64 zero = ~(value | -value) >> 63;

	barrier_var(zero);
	return zero;
}

/* 1 if value is less than bound, both below 2^63; likewise. */
static __always_inline u64 is_below(u64 value, u64 bound)
{
	u64 below = value - bound;

	barrier_var(below);
	below >>= 63;
	barrier_var(below);
	return below;
}

/*
 * Looks through len bytes of arguments: how many of them are shown, -1 where a
 * filter leaves the event out.
 */
static __noinline int choose(struct execsnoop_event *event, u32 len)
{
	u64 words = 0, shown = len, wanted = args == ARGS_NAME ? 1 : max_args;
	u64 state = 0;
	u32 at, next;

	if (!event)
		return -1;
	if (!line.length && args == ARGS_OFF)
		return 0;
	if (!line.length && (args == ARGS_NAME || max_args == ~0U))
		return len;
	/* a few bytes each time: at each turn the verifier looks at all turns before */
	for (at = 0; at < ARGS_MAX && at < len; at += UNROLLED) {
#pragma unroll
		for (next = 0; next < UNROLLED; next++) {
			u8 byte = event->args[at + next];
			u64 is_there = is_below(at + next, len);
			u64 ends, is_last;

			ends = is_zero(byte) & is_there;
			/* words are searched as they are shown, with blanks between them */
			state += is_there * (match_step(&line, state, byte | ends << 5) - state);
			words += ends;
			is_last = ends & is_zero(words ^ wanted);
			shown += is_last * (at + next + 1 - shown);
		}
	}
	if (state != line.length)
		return -1;
	if (args == ARGS_OFF)
		return 0;
	/* the name alone is what was asked for, fewer arguments than there were are not */
	if (shown < len && args == ARGS_FULL)
		event->cut = 1;
	return shown;
}

/* is_read: the arguments could be read, else none is known */
static __always_inline void pass_on(struct execsnoop_event *event, u32 len, bool is_read)
{
	int shown = choose(event, len);

	/* whether the filter wants it cannot be told */
	if (!is_read && line.length)
		return missed();
	if (shown < 0)
		return;
	if (!is_read)
		event->cut = 1;
	if (args != ARGS_FULL)
		event->cut = 0;
	shown = shown > ARGS_MAX ? ARGS_MAX : shown;
	submit(event, __builtin_offsetof(struct execsnoop_event, args) + shown);
}

/* after the point of no return: the task has its new name, credentials and memory */
SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	u64 start, len, limit = args_limit();
	struct execsnoop_event *event;
	u32 tid = old_pid;

	/* its number changes if it was not the first thread */
	if (include_failed)
		bpf_map_delete_elem(&attempts, &tid);
	event = begin(0);
	if (!event)
		return 0;
	start = task->mm->arg_start;
	if (args == ARGS_NAME && !line.length) {
		long got = bpf_probe_read_user_str(event->args, limit, (void *)start);

		pass_on(event, got > 0 ? got : 0, got > 0);
		return 0;
	}
	len = task->mm->arg_end - start;
	if (len > limit) {
		len = limit;
		event->cut = 1;
	}
	if (len > ARGS_MAX || bpf_probe_read_user(event->args, len, (void *)start))
		pass_on(event, 0, false);
	else
		pass_on(event, len, true);
	return 0;
}

static __always_inline int called(const char *filename, const char *const *argv)
{
	struct attempt attempt = { .filename = filename, .argv = argv };
	u32 tid = bpf_get_current_pid_tgid();

	if (bpf_map_update_elem(&attempts, &tid, &attempt, 0))
		missed();
	return 0;
}

/* The arguments of a call that failed are still where the caller has them. */
static __always_inline int returned(long ret)
{
	u32 tid = bpf_get_current_pid_tgid(), len = 0, at, limit = args_limit();
	struct attempt *attempt = bpf_map_lookup_elem(&attempts, &tid);
	struct execsnoop_event *event;
	struct attempt call;

	if (!attempt)
		return 0;
	call = *attempt;
	bpf_map_delete_elem(&attempts, &tid);
	if (ret >= 0)
		return 0;
	event = begin(ret);
	if (!event)
		return 0;
	for (at = 0; at < FAILED_ARGS; at++) {
		const char *word = NULL;
		long got;

		if (bpf_probe_read_user(&word, sizeof(word), &call.argv[at]) || !word)
			break;
		if (len >= limit || len >= ARGS_MAX) {
			event->cut = 1;
			break;
		}
		got = bpf_probe_read_user_str(&event->args[len & (ARGS_MAX - 1)], ARGS_MAX, word);
		if (got < 0) {
			event->cut = 1;
			break;
		}
		len += got;
		if (at == FAILED_ARGS - 1)
			event->cut = 1;
		if (args == ARGS_NAME && !line.length)
			break;
	}
	if (len > limit) {
		event->cut = 1;
		len = limit;
	}
	/* the name alone would be the caller's: what could not be run is what matters */
	if (!len) {
		long got = bpf_probe_read_user_str(event->args, ARGS_MAX, call.filename);

		len = got > 0 ? got : 0;
	}
	/* out of memory again: the verifier knows the same of it whichever way it came here */
	*(volatile u32 *)&event->len = len;
	len = *(volatile u32 *)&event->len;
	pass_on(event, len > ARGS_MAX ? ARGS_MAX : len, len > 0);
	return 0;
}

SEC("tp/syscalls/sys_enter_execve")
int on_execve(struct trace_event_raw_sys_enter *call)
{
	return called((const char *)call->args[0], (const char *const *)call->args[1]);
}

SEC("tp/syscalls/sys_enter_execveat")
int on_execveat(struct trace_event_raw_sys_enter *call)
{
	return called((const char *)call->args[1], (const char *const *)call->args[2]);
}

SEC("tp/syscalls/sys_exit_execve")
int on_execve_returned(struct trace_event_raw_sys_exit *call)
{
	return returned(call->ret);
}

SEC("tp/syscalls/sys_exit_execveat")
int on_execveat_returned(struct trace_event_raw_sys_exit *call)
{
	return returned(call->ret);
}
