/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What bindgen reads: the parts of PCP's C API that an agent touches. PCP 6 and
 * PCP 7 differ in the name of the result structure (pmResult, pmResult_v2), not
 * in its layout; pmda_result is the one that the fetch entry of this PCP fills.
 */
#ifndef PMDA_BPF_PCP_H
#define PMDA_BPF_PCP_H

#include <pcp/pmapi.h>
#include <pcp/pmda.h>
#include <syslog.h>

#ifdef PMAPI_VERSION_4
typedef pmResult_v2 pmda_result;
#else
typedef pmResult pmda_result;
#endif

#endif
