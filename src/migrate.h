/*
 * migrate.h
 *		What the files of the migration and of the verification share.
 *
 * A statement names tables of one owner (run.c).  What needs two is read as each of them,
 * and meets in a sort of ours: merge.c.
 */
#ifndef PST_MIGRATE_H
#define PST_MIGRATE_H

#include "prompt_stats.h"

#include "storage/itemptr.h"

/*
 * Of a row e of prompt_events.  Types and operators are pg_catalog's, because an exact match
 * in the table's schema would win over an inexact one.  The two kinds that move are compared
 * byte by byte, as tally.c does it: what a collation takes for the same is no view.
 */
#define PST_EVENT_TYPE "e.event_type::pg_catalog.text"
#define PST_EVENT_IS(kinds) \
	PST_EVENT_TYPE " COLLATE pg_catalog.\"C\" OPERATOR(pg_catalog.=) ANY ('{" kinds "}'::pg_catalog.text[])"
#define PST_IS_MOVABLE "(e.prompt_id IS NOT NULL AND " PST_EVENT_IS("view,copy") ")"
#define PST_IS_FORK \
	"(e.prompt_id IS NOT NULL AND " PST_EVENT_TYPE " OPERATOR(pg_catalog.=) 'fork'::pg_catalog.text)"
/* What our check refuses; unmovable => 'delete' takes it all */
#define PST_IS_REFUSED \
	"(e.event_type IS NULL OR " PST_EVENT_TYPE " OPERATOR(pg_catalog.<>) ALL ('{fork,compare_add}'::pg_catalog.text[]))"

/* ---- reading what a statement has found ---- */

static inline Datum
pst_get_field(uint64 row, int column, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, isnull);
}

/* A bigint; 0 for NULL */
static inline int64
pst_get_number(uint64 row, int column)
{
	bool		isnull;
	Datum		value = pst_get_field(row, column, &isnull);

	return isnull ? 0 : DatumGetInt64(value);
}

/* merge.c: what is added up for each prompt */
typedef enum PstSum
{
	PST_EVENT_VIEWS,			/* rows of prompt_events */
	PST_EVENT_COPIES,
	PST_EVENT_NO_KIND,
	PST_EVENT_OTHER_KIND,
	PST_EVENT_FORKS,
	PST_ROWS,					/* rows of prompt_stats, and what they hold */
	PST_ROW_VIEWS,
	PST_ROW_COPIES,
	PST_ROW_FORKS,
	PST_PROMPTS					/* rows of the table that prompt_stats
								 * references */
} PstSum;

#define PST_NSUMS (PST_PROMPTS + 1)

typedef struct PstMerged
{
	Datum		id;				/* until the next one is asked for */
	bool		no_id;			/* of rows without prompt_id */
	int64		n[PST_NSUMS];
} PstMerged;

typedef struct PstMerge PstMerge;

extern char *pst_id_sql(const char *column, PstIdKind kind);
extern PstMerge *pst_begin_merge(const PstTables *tables);
extern void pst_merge_table(PstMerge *merge, Oid table, int more_context, PstSum first, const char *sql);
extern void pst_merge_counters(PstMerge *merge);
extern void pst_sort_merged(PstMerge *merge);
extern bool pst_next_merged(PstMerge *merge, PstMerged *merged);
extern void pst_end_merge(PstMerge *merge);

/* missing.c */
extern ArrayType *pst_get_ids(PstIdKind kind);
extern bool pst_may_miss_prompts(const PstTables *tables);
extern char *pst_prompts_sql(const PstTables *tables);
extern ArrayType *pst_without_prompt(const PstTables *tables, ArrayType *ids);
extern ArrayType *pst_missing_prompts(const PstTables *tables, ArrayType *ids);

/* progress.c: table migration */
typedef struct PstRun
{
	bool		is_running;		/* the row is of this run, not of an earlier
								 * one */
	ItemPointerData position;	/* the last row that was looked at */
} PstRun;

extern void pst_lock_run(void);
extern bool pst_is_running(void);
extern void pst_read_run(PstRun *run, bool keep);
extern void pst_begin_run(PstRun *run, const PstTables *tables, bool keep);
extern void pst_save_run(const PstRun *run, int64 rows, const PstDeltas *deltas);
extern void pst_end_run(const PstTables *tables, bool valid);

/* migrate.c */
typedef struct PstBatch
{
	int32		limit;			/* rows */
	bool		keep;			/* the counters hold these rows already */
	bool		delete_unmovable;
	List	   *accepted;		/* names of findings: preflight.c */
} PstBatch;

extern int64 pst_count_blocks(Oid table);
extern void pst_lock_both(Oid function, PstTables *tables);
extern void pst_share_both(Oid function, PstTables *tables);
extern bool pst_may_delete(Oid function, const PstTables *tables, const PstBatch *batch);
extern int64 pst_migrate_batch(Oid function, const PstBatch *batch);

/* migrate_run.c */
extern void pst_check_can_migrate(Oid function);
extern int32 pst_need_batch_size(FunctionCallInfo fcinfo, int argno);
extern void pst_need_batch(FunctionCallInfo fcinfo, PstBatch *batch, int accept_argno);

/* recount.c */
extern int64 pst_recount_forks(Oid function, bool lower, int32 limit);
extern int64 pst_count_low_forks(const PstTables *tables);

/* report.c: in the order in which a dry run tells it */
typedef enum PstItem
{
	PST_ITEM_VIEWS,
	PST_ITEM_COPIES,
	PST_ITEM_PROMPTS,
	PST_ITEM_HELD,
	PST_ITEM_NO_KIND,			/* the first of those that can't move */
	PST_ITEM_OTHER_KIND,
	PST_ITEM_NO_PROMPT_ID,
	PST_ITEM_NO_PROMPT,			/* and the last */
	PST_ITEM_DIFFERING,			/* the first of those for mode "keep" */
	PST_ITEM_VIEWS_LACKING,
	PST_ITEM_VIEWS_BEYOND,
	PST_ITEM_COPIES_LACKING,
	PST_ITEM_COPIES_BEYOND
} PstItem;

#define PST_NITEMS (PST_ITEM_COPIES_BEYOND + 1)

typedef struct PstReport
{
	int64		amounts[PST_NITEMS];
} PstReport;

extern const char *pst_item_text(PstItem item);
extern void pst_make_report(const PstTables *tables, PstReport *report);
extern void pst_tell_report(const PstReport *report, bool keep);
extern int64 pst_list_unmovable(const PstReport *report, StringInfo reasons);

/* verify.c: rows of one table without one of the other */
typedef struct PstUnmatched
{
	int64		prompts;
	int64		counters;
} PstUnmatched;

extern char *pst_count_unmatched(const PstTables *tables, PstUnmatched *unmatched);

/* checks.c */
typedef struct PstCheck
{
	char	   *name;
	bool		is_valid;
	bool		is_ours;
} PstCheck;

extern PstCheck *pst_find_check(const PstTables *tables);
extern bool pst_validate_checks(const PstTables *tables);

#endif							/* PST_MIGRATE_H */
