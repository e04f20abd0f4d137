/*
 * guc.c
 *		The settings.
 */
#include "prompt_stats.h"

#include "utils/guc.h"

int			pst_durability = PST_DURABILITY_GROUP;
bool		pst_use_flusher = true;
int			pst_flush_interval = 200;
int			pst_max_pending = 16 * 1024;

/* The order is that of PstDurability */
static const struct config_enum_entry durability_options[] = {
	{"async", PST_DURABILITY_ASYNC, false},
	{"group", PST_DURABILITY_GROUP, false},
	{"transaction", PST_DURABILITY_TRANSACTION, false},
	{NULL, 0, false}
};

/* Read by the SQL of CREATE EXTENSION only, hence static */
static bool pst_skip_setup = false;

static void
define_durability(void)
{
	DefineCustomEnumVariable("prompt_stats.durability",
							 "What the commit of a transaction that counted waits for.",
							 "\"group\": the count is in the table; \"async\": nothing, it will be within prompt_stats.flush_interval; "
							 "\"transaction\": each call updates the row itself.",
							 &pst_durability,
							 PST_DURABILITY_GROUP,	/* boot value */
							 durability_options,
							 PGC_USERSET,
							 0, /* flags */
							 NULL,	/* check hook */
							 NULL,	/* assign hook */
							 NULL); /* show hook */
}

static void
define_flusher(void)
{
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

	DefineCustomIntVariable("prompt_stats.flush_interval",
							"Time within which counts of durability \"async\" are in the table.",
							NULL,
							&pst_flush_interval,
							200,	/* boot value */
							1, 3600 * 1000,
							PGC_SIGHUP,
							GUC_UNIT_MS,
							NULL,	/* check hook */
							NULL,	/* assign hook */
							NULL);	/* show hook */

	DefineCustomIntVariable("prompt_stats.max_pending",
							"Memory, for each database, for counts of durability \"async\" that are not in the table yet.",
							"Where it is full, transactions fold their own counts. Changes take effect when it is empty.",
							&pst_max_pending,
							16 * 1024,	/* boot value */
							256, 1024 * 1024,
							PGC_SIGHUP,
							GUC_UNIT_KB,
							NULL,	/* check hook */
							NULL,	/* assign hook */
							NULL);	/* show hook */
}

void
PstGucInit(void)
{
	define_durability();
	define_flusher();
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
