/*
 * recount.c
 *		fork_count, and the number of fork events.
 */
#include "migrate.h"

#include "utils/memutils.h"

PG_FUNCTION_INFO_V1(prompt_stats_recount_forks);

/* Prompts that are looked at together */
#define CHUNK 10000

/* Rows are looked at in the order of their ids, whoever owns the two tables */
static PstMerge *
read_forks(const PstTables *tables)
{
	PstMerge   *merge = pst_begin_merge(tables);

	pst_merge_table(merge, tables->events, 0, PST_EVENT_FORKS,
					psprintf("SELECT %s, pg_catalog.count(*) FROM ONLY %s AS e WHERE " PST_IS_FORK " GROUP BY 1",
							 pst_id_sql("e.prompt_id", tables->id_kind), tables->events_name));
	pst_merge_counters(merge);
	pst_sort_merged(merge);
	return merge;
}

/*
 * The next prompts whose fork_count is too low, or with "lower" too high, and by how much;
 * but for those that can't be counted.  Their ids live in the current memory context.  False
 * at the end; there may be more where none is found.
 */
static bool
next_differences(PstMerge *merge, const PstTables *tables, bool lower, PstDeltas *found)
{
	Datum	   *rowless = palloc(CHUNK * sizeof(Datum));
	int			nrowless = 0;
	PstMerged	merged;
	bool		more;

	found->len = 0;
	while (found->len < CHUNK && pst_next_merged(merge, &merged))
	{
		int64		n = merged.n[PST_EVENT_FORKS] - merged.n[PST_ROW_FORKS];
		PstDelta   *delta;

		if (merged.no_id || n == 0 || (n < 0 && !lower))
			continue;
		delta = pst_add_delta(found, pst_copy_id(merged.id, tables->id_kind), PST_FORKS, n);
		if (merged.n[PST_ROWS] == 0)
			rowless[nrowless++] = delta->id;
	}
	more = found->len > 0;
	pst_remove_deltas(found, pst_without_prompt(tables, pst_id_array(rowless, nrowless, tables->id_kind)));
	pfree(rowless);
	return more;
}

/*
 * Corrects fork_count of at most "limit" prompts, and returns of how many it did.  The
 * differences are of one snapshot and are added: forks that are tracked meanwhile are in
 * the events and in the counter, and change nothing.
 */
int64
pst_recount_forks(Oid function, bool lower, int32 limit)
{
	PstTables	tables;
	PstDeltas	deltas;
	PstDeltas	chunk;
	PstMerge   *merge;
	int64		written;

	pst_check_can_migrate(function);
	pst_lock_both(function, &tables);
	pst_lock_run();

	SPI_connect();
	pst_init_deltas(&deltas, &tables, 1);
	pst_init_deltas(&chunk, &tables, CHUNK);
	merge = read_forks(&tables);
	while (deltas.len < limit && next_differences(merge, &tables, lower, &chunk))
		for (int i = 0; i < chunk.len && deltas.len < limit; i++)
			pst_append_delta(&deltas, &chunk.items[i]);
	pst_end_merge(merge);
	written = pst_fold_all(&tables, &deltas);
	SPI_finish();
	return written;
}

/*
 * For how many prompts fork_count says less than the events, which the caller has locked.
 * Must be connected to SPI.
 */
int64
pst_count_low_forks(const PstTables *tables)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "prompt_stats forks", ALLOCSET_DEFAULT_SIZES);
	PstMerge   *merge = read_forks(tables);
	MemoryContext caller;
	PstDeltas	chunk;
	int64		count = 0;

	pst_init_deltas(&chunk, tables, CHUNK);
	caller = MemoryContextSwitchTo(context);
	while (next_differences(merge, tables, false, &chunk))
	{
		count += chunk.len;
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
	pst_end_merge(merge);
	return count;
}

/* prompt_stats_recount_forks(lower boolean, n integer) */
Datum
prompt_stats_recount_forks(PG_FUNCTION_ARGS)
{
	bool		lower = !PG_ARGISNULL(0) && PG_GETARG_BOOL(0);
	int32		limit = PG_ARGISNULL(1) ? PG_INT32_MAX : pst_need_batch_size(fcinfo, 1);

	PG_RETURN_INT64(pst_recount_forks(fcinfo->flinfo->fn_oid, lower, limit));
}
