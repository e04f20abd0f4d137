/*
 * plans.c
 *		Plans that are kept, and outlive nothing that they were made for.
 *
 * - The server revises a plan when its tables change (plancache.c), but from its text, though
 *	 a table that was renamed or replaced needs another; and one that a rule had do nothing
 *	 names no table, and is never revised.  So tables.c has all plans forgotten when it hears
 *	 of a change.
 * - It does not revise a plan because a table has grown.  So those are made that are right for
 *	 every size: rows are found in the index of the key, whatever the statistics say, because
 *	 a scan of a table that was small takes ever longer.  That goes for our own statements, and
 *	 for those with which the server checks the foreign keys of what they write, which it keeps
 *	 as well (ri_triggers.c); not for those of functions that they run.
 */
#include "prompt_stats.h"

#include "jit/jit.h"
#include "miscadmin.h"
#include "optimizer/cost.h"
#include "optimizer/planner.h"
#include "utils/memutils.h"
#include "utils/plancache.h"

static planner_hook_type previous_planner = NULL;

static PstPlan *saved_plans = NULL;

/* A trigger may count while a plan of ours runs: those that are forgotten meanwhile wait here */
static int	running = 0;
static List *dead_plans = NIL;

/* ---- keeping and forgetting ---- */

/* "prepared" is kept already */
void
pst_keep_plan(PstPlan *plan, SPIPlanPtr prepared)
{
	if (!plan->is_listed)
	{
		plan->next = saved_plans;
		saved_plans = plan;
		plan->is_listed = true;
	}
	plan->prepared = prepared;
}

static void
forget_plan(PstPlan *plan)
{
	MemoryContext caller;

	if (running == 0)
		SPI_freeplan(plan->prepared);
	else
	{
		caller = MemoryContextSwitchTo(TopMemoryContext);
		dead_plans = lappend(dead_plans, plan->prepared);
		MemoryContextSwitchTo(caller);
	}
	plan->prepared = NULL;
}

void
pst_forget_plans(void)
{
	for (PstPlan *plan = saved_plans; plan != NULL; plan = plan->next)
		if (plan->prepared != NULL)
			forget_plan(plan);
}

/* Around the execution of one that is saved */
void
pst_begin_saved(void)
{
	running++;
}

void
pst_end_saved(void)
{
	running--;
	while (running == 0 && dead_plans != NIL)
	{
		SPIPlanPtr	prepared = linitial(dead_plans);

		dead_plans = list_delete_first(dead_plans);
		SPI_freeplan(prepared);
	}
}

/* ---- planning ---- */

/* The text that the planner gets is that of the plan itself */
static bool
is_saved(const char *query)
{
	for (PstPlan *plan = saved_plans; plan != NULL; plan = plan->next)
		if (plan->prepared != NULL &&
			((CachedPlanSource *) linitial(SPI_plan_get_plan_sources(plan->prepared)))->query_string == query)
			return true;
	return false;
}

/* Nobody but the server has policies set aside while it plans: to check a foreign key */
static bool
is_ours(const char *query)
{
	return pst_finds_keys() || (running > 0 && (InNoForceRLSOperation() || is_saved(query)));
}

typedef struct Planner
{
	bool		seqscan;
	bool		indexscan;
	bool		tidscan;
	bool		nestloop;
	bool		memoize;
	bool		jit;
} Planner;

static const Planner by_key = {
	.indexscan = true,
	.tidscan = true,
	.nestloop = true
};

/* Returns what was set before */
static Planner
set_planner(Planner wanted)
{
	Planner		was = {enable_seqscan, enable_indexscan, enable_tidscan, enable_nestloop, enable_memoize, jit_enabled};

	enable_seqscan = wanted.seqscan;
	enable_indexscan = wanted.indexscan;
	enable_tidscan = wanted.tidscan;
	enable_nestloop = wanted.nestloop;
	enable_memoize = wanted.memoize;
	jit_enabled = wanted.jit;
	return was;
}

static PlannedStmt *
plan_for_any_size(planner_hook_type plan, Query *parse, const char *query, int options, ParamListInfo params)
{
	Planner		was = set_planner(by_key);
	PlannedStmt *result = NULL;

	PG_TRY();
	{
		result = plan(parse, query, options, params);
	}
	PG_FINALLY();
	{
		(void) set_planner(was);
	}
	PG_END_TRY();
	return result;
}

static PlannedStmt *
plan_query(Query *parse, const char *query, int options, ParamListInfo params)
{
	planner_hook_type plan = previous_planner != NULL ? previous_planner : standard_planner;

	return is_ours(query) ? plan_for_any_size(plan, parse, query, options, params) : plan(parse, query, options, params);
}

void
PstPlansInit(void)
{
	previous_planner = planner_hook;
	planner_hook = plan_query;
}
