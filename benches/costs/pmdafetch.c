/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The agent of examples/testagent's scale_init, answered by libpcp_pmda's pmdaFetch. */
#include <pcp/pmapi.h>
#include <pcp/pmda.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIZES 4

static const int sizes[SIZES] = { 63, 1000, 10000, 100000 };
static pmdaIndom indoms[SIZES];
static pmdaMetric metrics[SIZES];

static int value(pmdaMetric *metric, unsigned int inst, pmAtomValue *atom)
{
	atom->ull = (__uint64_t)inst * 17;
	return PMDA_FETCH_STATIC;
}

void pmdafetch_init(pmdaInterface *dispatch)
{
	char name[32];
	int size, id;

	pmdaDSO(dispatch, PMDA_INTERFACE_7, "pmdafetch", NULL);
	for (size = 0; size < SIZES; size++) {
		pmdaInstid *set = calloc(sizes[size], sizeof(*set));

		for (id = 0; id < sizes[size]; id++) {
			snprintf(name, sizeof(name), "i%d", id);
			set[id].i_inst = id;
			set[id].i_name = strdup(name);
		}
		indoms[size].it_indom = size;
		indoms[size].it_numinst = sizes[size];
		indoms[size].it_set = set;
		metrics[size].m_desc.pmid = PMDA_PMID(1, size);
		metrics[size].m_desc.type = PM_TYPE_U64;
		metrics[size].m_desc.indom = size;
		metrics[size].m_desc.sem = PM_SEM_INSTANT;
	}
	pmdaSetFetchCallBack(dispatch, value);
	pmdaInit(dispatch, indoms, SIZES, metrics, SIZES);
}
