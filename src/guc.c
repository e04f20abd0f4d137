/*
 * guc.c
 *		The settings.
 */
#include "prompt_stats.h"

#include "utils/guc.h"

/* Read by the SQL of CREATE EXTENSION only, hence static */
static bool pst_skip_setup = false;

void
PstGucInit(void)
{
	DefineCustomBoolVariable("prompt_stats.skip_setup",
							 "Makes CREATE EXTENSION prompt_stats leave every table alone.",
							 "prompt_stats_setup() creates or adopts the tables later.",
							 &pst_skip_setup,
							 false, /* boot value */
							 PGC_USERSET,
							 0, /* flags */
							 NULL,	/* check hook */
							 NULL,	/* assign hook */
							 NULL); /* show hook */

	MarkGUCPrefixReserved("prompt_stats");
}
