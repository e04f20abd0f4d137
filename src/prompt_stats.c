/*
 * prompt_stats.c
 *		Where the library begins.
 */
#include "prompt_stats.h"

PST_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

/*
 * Runs at the first call in a session, at CREATE EXTENSION, and at LOAD (which
 * pg_upgrade does): must not fail for want of preloading.
 */
void
_PG_init(void)
{
	PstGucInit();
	PstTablesInit();
	PstXactInit();
	PstRefuseInit();
	PstPlansInit();
	PstHooksInit();
}
