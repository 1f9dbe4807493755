// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What each process sends and receives over TCP and UDP, IPv4 and IPv6: bytes,
 * and the calls that moved them.
 */
#include "lib/rows.bpf.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

/* include/linux/socket.h, include/uapi/linux/in.h */
enum { AF_INET = 2, AF_INET6 = 10 };
enum { IPPROTO_TCP = 6, IPPROTO_UDP = 17 };
enum { MSG_PEEK = 2, MSG_ERRQUEUE = 0x2000 };

char LICENSE[] SEC("license") = "GPL";

/* In this order: see traffic_word(). */
struct traffic {
	u64 tcp_send_packets;
	u64 tcp_send_bytes;
	u64 tcp_recv_packets;
	u64 tcp_recv_bytes;
	u64 udp_send_packets;
	u64 udp_send_bytes;
	u64 udp_recv_packets;
	u64 udp_recv_bytes;
};

/* One per CPU. */
struct netatop_row {
	struct traffic all; /* of all processes there ever were */
	struct traffic other; /* of those that found no row in the table */
	u64 lost; /* nothing is: what has no row is in other */
} __attribute__((aligned(CACHE_LINE)));

MAPPED(rows, struct netatop_row);

enum { ROW_FREE, ROW_LIVE, ROW_ENDED };

/* Written by all CPUs that the process runs on. */
struct netatop_process {
	u32 pid;
	u32 state;
	u64 ended;
	struct traffic traffic;
} __attribute__((aligned(CACHE_LINE)));

MAPPED(processes, struct netatop_process);

/* The row of a living process. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1); /* as processes */
	__type(key, u32);
	__type(value, u32);
} indices SEC(".maps");

/*
 * The rows that no living process has, the one that ended first at the head: it
 * is shown until its turn comes. The loader fills it.
 */
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 1); /* as processes */
	__type(value, u32);
} unused SEC(".maps");

/* A row for a process that has none; negative where all are in use. */
static __noinline int new_index(u32 tgid)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct netatop_process *process;
	u32 index, *known;

	/* what a process does while it ends would get a row that nothing takes away again */
	if (!BPF_CORE_READ(task, signal, live.counter))
		return -1;
	if (bpf_map_pop_elem(&unused, &index))
		return -1;
	process = bpf_map_lookup_elem(&processes, &index);
	if (!process)
		return -1;
	process->state = ROW_FREE;
	barrier();
	process->pid = tgid;
	process->ended = 0;
	__builtin_memset(&process->traffic, 0, sizeof(process->traffic));
	barrier();
	if (!bpf_map_update_elem(&indices, &tgid, &index, BPF_NOEXIST)) {
		process->state = ROW_LIVE;
		return index;
	}
	/* another thread of the process was first */
	bpf_map_push_elem(&unused, &index, 0);
	known = bpf_map_lookup_elem(&indices, &tgid);
	return known ? (int)*known : -1;
}

static __always_inline void add(struct traffic *traffic, u32 word, u64 bytes, bool shared)
{
	u64 *words = (u64 *)traffic;

	count(&words[word], 1, shared);
	count(&words[word + 1], bytes, shared);
}

/* shared: the program may be interrupted by another that writes to the row of this CPU */
static __always_inline int moved(struct sock *sk, long bytes, bool received, bool shared)
{
	u32 cpu = bpf_get_smp_processor_id(), tgid = bpf_get_current_pid_tgid() >> 32;
	struct netatop_process *process = NULL;
	struct netatop_row *row;
	u16 family, protocol;
	u32 word, *known;
	int index;

	/* an empty datagram is one; from a stream, nothing says that it has ended */
	if (!sk || bytes < 0)
		return 0;
	family = sk->__sk_common.skc_family;
	protocol = sk->sk_protocol;
	if (family != AF_INET && family != AF_INET6)
		return 0;
	if (protocol != IPPROTO_UDP && (protocol != IPPROTO_TCP || !bytes))
		return 0;
	word = (protocol == IPPROTO_UDP ? 4 : 0) + (received ? 2 : 0);
	row = bpf_map_lookup_elem(&rows, &cpu);
	if (!row)
		return 0;
	add(&row->all, word, bytes, shared);
	known = bpf_map_lookup_elem(&indices, &tgid);
	index = known ? (int)*known : new_index(tgid);
	if (index >= 0)
		process = bpf_map_lookup_elem(&processes, &index);
	if (process)
		add(&process->traffic, word, bytes, true);
	else
		add(&row->other, word, bytes, shared);
	return 0;
}

/* from 6.3, commit 6e6eda44b939 */
SEC("tp_btf/sock_send_length")
int BPF_PROG(on_send_length, struct sock *sk, int ret, int flags)
{
	return moved(sk, ret, false, false);
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(on_recv_length, struct sock *sk, int ret, int flags)
{
	return flags & (MSG_PEEK | MSG_ERRQUEUE) ? 0 : moved(sk, ret, true, false);
}

SEC("fexit/inet_sendmsg")
int BPF_PROG(on_inet_sendmsg, struct socket *sock, void *msg, u64 size, int ret)
{
	return moved(sock->sk, ret, false, true);
}

SEC("fexit/inet6_sendmsg")
int BPF_PROG(on_inet6_sendmsg, struct socket *sock, void *msg, u64 size, int ret)
{
	return moved(sock->sk, ret, false, true);
}

/* sendfile(2) and splice(2) before 6.5, commit dc97391e6610 */
SEC("fexit/inet_sendpage")
int BPF_PROG(on_inet_sendpage, struct socket *sock, void *page, int offset, u64 size, int flags,
	     long ret)
{
	return moved(sock->sk, ret, false, true);
}

SEC("fexit/inet_recvmsg")
int BPF_PROG(on_inet_recvmsg, struct socket *sock, void *msg, u64 size, int flags, int ret)
{
	return flags & (MSG_PEEK | MSG_ERRQUEUE) ? 0 : moved(sock->sk, ret, true, true);
}

SEC("fexit/inet6_recvmsg")
int BPF_PROG(on_inet6_recvmsg, struct socket *sock, void *msg, u64 size, int flags, int ret)
{
	return flags & (MSG_PEEK | MSG_ERRQUEUE) ? 0 : moved(sock->sk, ret, true, true);
}

/* The last thread of a process ends it. */
SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_exit, struct task_struct *task)
{
	struct netatop_process *process;
	u32 tgid = task->tgid, index, *known;

	if (task->signal->live.counter)
		return 0;
	known = bpf_map_lookup_elem(&indices, &tgid);
	if (!known)
		return 0;
	index = *known;
	/* two threads may both be the last: one of them takes the row away */
	if (bpf_map_delete_elem(&indices, &tgid))
		return 0;
	process = bpf_map_lookup_elem(&processes, &index);
	if (!process)
		return 0;
	process->ended = bpf_ktime_get_ns();
	barrier();
	process->state = ROW_ENDED;
	bpf_map_push_elem(&unused, &index, 0);
	return 0;
}
