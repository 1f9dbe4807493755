/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The domain of pmdabpf, whose place this agent takes. */
#define BPF 157
