/*
 * hooks.c
 *		What we do before and after statements of others.
 *
 * The library may be loaded in the midst of one, or of a transaction, so nothing depends
 * on having seen the statements before: only on those that come after a count.
 */
#include "prompt_stats.h"

#include "tcop/utility.h"

static ProcessUtility_hook_type previous_utility = NULL;

static void
run_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree, ProcessUtilityContext context,
			ParamListInfo params, QueryEnvironment *environment, DestReceiver *dest,
			QueryCompletion *completion)
{
	ProcessUtility_hook_type run = previous_utility != NULL ? previous_utility : standard_ProcessUtility;

	run(pstmt, query, read_only_tree, context, params, environment, dest, completion);
	pst_keep_portal();			/* CLOSE ALL and DISCARD ALL close it */
}

void
PstHooksInit(void)
{
	previous_utility = ProcessUtility_hook;
	ProcessUtility_hook = run_utility;
}
