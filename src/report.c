/*
 * report.c
 *		What the migration would do now, and what it could not do.
 */
#include "migrate.h"

#include "common/int.h"
#include "utils/memutils.h"

/* Prompts that are looked for together */
#define CHUNK 10000

static const char *const texts[PST_NITEMS] = {
	[PST_ITEM_VIEWS] = "views to move",
	[PST_ITEM_COPIES] = "copies to move",
	[PST_ITEM_PROMPTS] = "prompts they belong to",
	[PST_ITEM_HELD] = "prompts whose counters hold something already",
	[PST_ITEM_NO_KIND] = "without event_type",
	[PST_ITEM_OTHER_KIND] = "of another event_type",
	[PST_ITEM_NO_PROMPT_ID] = "without prompt_id",
	[PST_ITEM_NO_PROMPT] = "of prompts that don't exist",
	[PST_ITEM_DIFFERING] = "prompts whose counters hold something else than their rows",
	[PST_ITEM_VIEWS_LACKING] = "views that the counters lack",
	[PST_ITEM_VIEWS_BEYOND] = "views that only the counters have",
	[PST_ITEM_COPIES_LACKING] = "copies that the counters lack",
	[PST_ITEM_COPIES_BEYOND] = "copies that only the counters have",
};

const char *
pst_item_text(PstItem item)
{
	return texts[item];
}

typedef struct Making
{
	const PstTables *tables;
	PstReport  *report;
	PstDeltas	suspects;		/* of prompts without a row, which may not
								 * exist */
	MemoryContext context;		/* of their ids */
} Making;

/* Counters may hold what no sum can: the most that there is, then */
static void
add_to(PstReport *report, PstItem item, int64 n)
{
	if (pg_add_s64_overflow(report->amounts[item], n, &report->amounts[item]))
		report->amounts[item] = PG_INT64_MAX;
}

/* ---- rows that move ---- */

static void
compare(PstReport *report, int64 rows, int64 counter, PstItem lacking, PstItem beyond)
{
	if (counter < 0)
		counter = 0;
	if (rows > counter)
		add_to(report, lacking, rows - counter);
	else
		add_to(report, beyond, counter - rows);
}

/* The rows of a prompt, and what its counters hold */
static void
add_prompt(PstReport *report, const int64 *rows, int64 views, int64 copies)
{
	add_to(report, PST_ITEM_VIEWS, rows[PST_VIEWS]);
	add_to(report, PST_ITEM_COPIES, rows[PST_COPIES]);
	add_to(report, PST_ITEM_PROMPTS, rows[PST_VIEWS] > 0 || rows[PST_COPIES] > 0);
	add_to(report, PST_ITEM_DIFFERING, rows[PST_VIEWS] != views || rows[PST_COPIES] != copies);
	compare(report, rows[PST_VIEWS], views, PST_ITEM_VIEWS_LACKING, PST_ITEM_VIEWS_BEYOND);
	compare(report, rows[PST_COPIES], copies, PST_ITEM_COPIES_LACKING, PST_ITEM_COPIES_BEYOND);
}

/* ---- prompts that may not exist ---- */

static void
judge_suspects(Making *making)
{
	PstDeltas  *suspects = &making->suspects;
	MemoryContext caller = MemoryContextSwitchTo(making->context);
	int64		all = pst_total_of(suspects);

	pst_remove_deltas(suspects, pst_without_prompt(making->tables, pst_ids_of(suspects)));
	add_to(making->report, PST_ITEM_NO_PROMPT, all - pst_total_of(suspects));
	for (int i = 0; i < suspects->len; i++)
		add_prompt(making->report, suspects->items[i].n, 0, 0);
	suspects->len = 0;
	MemoryContextSwitchTo(caller);
	MemoryContextReset(making->context);
}

static void
add_suspect(Making *making, Datum id, const int64 *rows)
{
	MemoryContext caller = MemoryContextSwitchTo(making->context);
	PstDelta	delta = {.id = pst_copy_id(id, making->tables->id_kind)};

	MemoryContextSwitchTo(caller);
	memcpy(delta.n, rows, sizeof(delta.n));
	pst_append_delta(&making->suspects, &delta);
	if (making->suspects.len == CHUNK)
		judge_suspects(making);
}

/* ---- the report ---- */

static void
add_merged(Making *making, const PstMerged *merged)
{
	PstReport  *report = making->report;
	const int64 *n = merged->n;
	int64		rows[PST_NCOUNTERS] = {n[PST_EVENT_VIEWS], n[PST_EVENT_COPIES], 0};

	add_to(report, PST_ITEM_HELD, n[PST_ROW_VIEWS] != 0 || n[PST_ROW_COPIES] != 0);
	add_to(report, PST_ITEM_NO_KIND, n[PST_EVENT_NO_KIND]);
	add_to(report, PST_ITEM_OTHER_KIND, n[PST_EVENT_OTHER_KIND]);
	if (merged->no_id)
		add_to(report, PST_ITEM_NO_PROMPT_ID, pst_total(rows));
	else if (n[PST_ROWS] == 0 && pst_total(rows) > 0 && pst_may_miss_prompts(making->tables))
		add_suspect(making, merged->id, rows);
	else
		add_prompt(report, rows, n[PST_ROW_VIEWS], n[PST_ROW_COPIES]);
}

/* The rows of prompt_events, from PST_EVENT_VIEWS to PST_EVENT_OTHER_KIND */
static void
merge_events(PstMerge *merge, const PstTables *tables)
{
	pst_merge_table(merge, tables->events, 0, PST_EVENT_VIEWS,
					psprintf("SELECT %s,"
							 " pg_catalog.count(*) FILTER (WHERE " PST_EVENT_IS("view") "),"
							 " pg_catalog.count(*) FILTER (WHERE " PST_EVENT_IS("copy") "),"
							 " pg_catalog.count(*) FILTER (WHERE e.event_type IS NULL),"
							 " pg_catalog.count(*) FILTER (WHERE e.event_type IS NOT NULL AND NOT (" PST_EVENT_IS("view,copy") "))"
							 " FROM ONLY %s AS e WHERE " PST_IS_REFUSED " GROUP BY 1",
							 pst_id_sql("e.prompt_id", tables->id_kind), tables->events_name));
}

/* The caller has locked both tables, of which that of the counters may be missing */
void
pst_make_report(const PstTables *tables, PstReport *report)
{
	Making		making = {.tables = tables,.report = report};
	PstMerge   *merge;
	PstMerged	merged;

	memset(report, 0, sizeof(*report));
	SPI_connect();
	making.context = AllocSetContextCreate(CurrentMemoryContext, "prompt_stats suspects", ALLOCSET_DEFAULT_SIZES);
	pst_init_deltas(&making.suspects, tables, CHUNK);
	merge = pst_begin_merge(tables);
	merge_events(merge, tables);
	if (OidIsValid(tables->stats))
		pst_merge_counters(merge);
	pst_sort_merged(merge);
	while (pst_next_merged(merge, &merged))
		add_merged(&making, &merged);
	judge_suspects(&making);
	pst_end_merge(merge);
	SPI_finish();
}

static bool
is_unmovable(PstItem item)
{
	return item >= PST_ITEM_NO_KIND && item <= PST_ITEM_NO_PROMPT;
}

/* As a dry run tells it */
void
pst_tell_report(const PstReport *report, bool keep)
{
	PstItem		last = keep ? PST_NITEMS - 1 : PST_ITEM_NO_PROMPT;

	for (PstItem item = 0; item <= last; item++)
		ereport(NOTICE,
				(errmsg("%s%s: " INT64_FORMAT, is_unmovable(item) ? "rows that can't move: " : "",
						texts[item], report->amounts[item])));
}

/* How many rows can't move; "2 without prompt_id, ..." is appended */
int64
pst_list_unmovable(const PstReport *report, StringInfo reasons)
{
	int64		rows = 0;

	for (PstItem item = PST_ITEM_NO_KIND; item <= PST_ITEM_NO_PROMPT; item++)
	{
		if (report->amounts[item] == 0)
			continue;
		appendStringInfo(reasons, "%s" INT64_FORMAT " %s", rows > 0 ? ", " : "", report->amounts[item], texts[item]);
		rows += report->amounts[item];
	}
	return rows;
}
