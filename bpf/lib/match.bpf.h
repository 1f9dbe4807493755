/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Text of the configuration searched for in text of the kernel's: one look-up
 * per byte in a table that the loader has made (Knuth, Morris, Pratt 1977).
 */
#ifndef PMDA_BPF_MATCH_H
#define PMDA_BPF_MATCH_H

#include "kernel.h"

#include <bpf/bpf_helpers.h>

#define MATCH_STATES 64

struct automaton {
	u32 length; /* of the text; 0: everything matches */
	u8 next[MATCH_STATES * 256]; /* by state and byte; state length is that of a match */
};

/* One byte further. */
static __always_inline u64 match_step(const volatile struct automaton *automaton, u64 state,
				      u8 byte)
{
	u64 at = (state << 8) + byte;

	/* in one instruction before its use: the verifier of 5.10 loses a bound that is an OR of
	 * two */
	barrier_var(at);
	return automaton->next[at & (MATCH_STATES * 256 - 1)];
}

/* Whether the first len bytes of text, up to a NUL, hold the text searched for. */
static __always_inline bool matches(const volatile struct automaton *automaton, const char *text,
				    u32 len)
{
	u64 state = 0;
	u32 at;

	if (!automaton->length)
		return true;
	for (at = 0; at < len && text[at]; at++)
		state = match_step(automaton, state, text[at]);
	return state == automaton->length;
}

#endif
