/*
 * guc.c
 *		The settings.
 */
#include "prompt_stats.h"

#include "utils/guc.h"

int			pst_durability = PST_DURABILITY_TRANSACTION;
bool		pst_use_flusher = true;

static const struct config_enum_entry durability_options[] = {
	{"group", PST_DURABILITY_GROUP, false},
	{"transaction", PST_DURABILITY_TRANSACTION, false},
	{NULL, 0, false}
};

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

	DefineCustomEnumVariable("prompt_stats.durability",
							 "What the commit of a transaction that counted waits for.",
							 NULL,
							 &pst_durability,
							 PST_DURABILITY_TRANSACTION,	/* boot value */
							 durability_options,
							 PGC_USERSET,
							 0, /* flags */
							 NULL,	/* check hook */
							 NULL,	/* assign hook */
							 NULL); /* show hook */

	DefineCustomBoolVariable("prompt_stats.flusher",
							 "Lets a background worker fold the counts of concurrent transactions.",
							 "Off, every transaction folds its own.",
							 &pst_use_flusher,
							 true,	/* boot value */
							 PGC_SIGHUP,
							 0, /* flags */
							 NULL,	/* check hook */
							 NULL,	/* assign hook */
							 NULL); /* show hook */

	MarkGUCPrefixReserved("prompt_stats");
}
