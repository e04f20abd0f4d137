/*
 * correct.c
 *		prompt_stats_reset() and prompt_stats_correct(): counts that are taken back.
 *
 * Both are exact beside those who count: they lock the prompt's row, and then take what is
 * pending of it at that moment into their own transaction ("claim" it): a reset drops it, a
 * correction adds it, for what readers see must not become negative.  What is counted
 * afterwards is pending again, and stays.
 *
 * A claim is a flight (pending.c) of our transaction, as if we were the flusher: readers add
 * it as long as their snapshots miss our commit.  It lands at our COMMIT, and is turned back
 * by an abort, by ROLLBACK TO, too.  So it is neither folded twice nor lost.
 *
 * Who waits for whom: the flusher takes no flight of ours, and it waits for our row but
 * briefly.  Where it has the prompt in the air we wait for its transaction, in the sight of
 * the deadlock detector, as we do for another correction of a prompt that has no row.
 *
 * What this transaction has counted before is taken, too, for it comes first.
 */
#include "prompt_stats.h"

#include "shared.h"

#include "access/xact.h"
#include "catalog/pg_trigger.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapshot.h"

PG_FUNCTION_INFO_V1(prompt_stats_reset);
PG_FUNCTION_INFO_V1(prompt_stats_correct);

/* ---- claims of this transaction ---- */

typedef struct Claim
{
	PstHold		hold;
	int			level;			/* of the subtransaction */
	CommandId	written_by;		/* snapshots of commands before this one miss
								 * what was written */
} Claim;

/* In TopTransactionContext, in the order in which they were made */
static Claim *claims = NULL;
static int	nclaims = 0;
static int	size_claims = 0;
static int	unfinished = 0;		/* of them, not written yet */
static CommandId last_written = 0;	/* by the last that is */
static PstDatabase *database = NULL;

#define NO_CLAIM (-1)
#define NOT_YET PG_UINT32_MAX

static void
ensure_claims(void)
{
	if (claims == NULL)
	{
		size_claims = 8;
		claims = MemoryContextAlloc(TopTransactionContext, size_claims * sizeof(Claim));
	}
	else if (nclaims == size_claims)
	{
		claims = repalloc_huge(claims, 2 * size_claims * sizeof(Claim));
		size_claims *= 2;
	}
}

static void
begin_claim(Claim *claim)
{
	claim->level = GetCurrentTransactionNestLevel();
	claim->written_by = NOT_YET;
}

/* For commands that begin now it is written */
static void
finish_claim(int number)
{
	CommandCounterIncrement();
	if (number == NO_CLAIM)
		return;
	last_written = claims[number].written_by = GetCurrentCommandId(false);
	unfinished--;
}

bool
pst_has_claims(void)
{
	return nclaims > 0;
}

/* Of a prompt: what we have written, or are about to, and this snapshot of ours misses */
void
pst_add_unseen_claims(const PstKey *key, Snapshot snapshot, int64 *n)
{
	if (unfinished == 0 && last_written <= snapshot->curcid)
		return;
	for (int i = 0; i < nclaims; i++)
	{
		const Claim *claim = &claims[i];

		if (claim->written_by <= snapshot->curcid || memcmp(&claim->hold.key, key, sizeof(*key)) != 0)
			continue;
		for (int c = 0; c < PST_NCOUNTERS; c++)
			n[c] += claim->hold.n[c];
	}
}

/* Those of a subtransaction and of its own; must not fail */
void
pst_abort_claims(int level)
{
	while (nclaims > 0 && claims[nclaims - 1].level >= level)
	{
		Claim	   *claim = &claims[--nclaims];

		unfinished -= claim->written_by == NOT_YET;
		pst_return_claim(database, &claim->hold);
	}
}

void
pst_keep_claims(int level)
{
	for (int i = nclaims - 1; i >= 0 && claims[i].level >= level; i--)
		claims[i].level = level - 1;
}

/* In the callbacks at the end of a transaction: must not fail */
void
pst_end_claims(bool committed)
{
	if (!committed)
		pst_abort_claims(0);
	for (int i = 0; i < nclaims; i++)
		pst_land_claim(database, &claims[i].hold);
	claims = NULL;
	nclaims = unfinished = 0;
	last_written = 0;
}

/* ---- one prompt ---- */

/* In a copy of what we know of the table: a trigger may load it anew */
typedef struct Correction
{
	PstTables	tables;
	Datum		id;
	bool		has_row;
	int64		row[PST_NCOUNTERS]; /* what is in it, once it is locked */
	int64		pending[PST_NCOUNTERS]; /* claimed, or counted by this
										 * transaction */
	int			claim;			/* its number, or NO_CLAIM where nothing was
								 * pending */
} Correction;

static void
lock_row(void *arg)
{
	Correction *correction = arg;
	const PstTables *tables = &correction->tables;
	Oid			type = pst_id_type(tables->id_kind);
	char	   *sql = psprintf("SELECT s.view_count::pg_catalog.int8, s.copy_count::pg_catalog.int8, s.fork_count::pg_catalog.int8"
							   " FROM ONLY %s AS s WHERE s.prompt_id OPERATOR(pg_catalog.=) $1 FOR NO KEY UPDATE",
							   tables->stats_name);

	memset(correction->row, 0, sizeof(correction->row));
	correction->has_row = pst_run(sql, 1, &type, &correction->id) > 0;
	for (int c = 0; correction->has_row && c < PST_NCOUNTERS; c++)
	{
		bool		isnull;
		Datum		value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1 + c, &isnull);

		correction->row[c] = isnull ? 0 : DatumGetInt64(value);
	}
	if (!correction->has_row)
		pst_check_not_hidden(tables, correction->id);
}

static void
lock_row_as_owner(Correction *correction)
{
	PstScope	scope = pst_scope_of(correction->tables.stats_owner, correction->tables.stats_path);

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	pst_as_owner(&scope, lock_row, correction);
	SPI_finish();
}

/* False where another transaction has the prompt in the air: waits for it */
static bool
claim_pending(Correction *correction)
{
	TransactionId holder;
	Claim	   *claim;

	if (database == NULL)
		return true;
	ensure_claims();
	claim = &claims[nclaims];
	begin_claim(claim);
	holder = pst_claim(database, &correction->tables, correction->id, &claim->hold);
	if (TransactionIdIsValid(holder))
	{
		XactLockTableWait(holder, NULL, NULL, XLTW_None);
		return false;
	}
	if (claim->hold.entry == NULL)
		return true;
	unfinished++;
	correction->claim = nclaims++;
	memcpy(correction->pending, claim->hold.n, sizeof(correction->pending));
	return true;
}

/*
 * A row that was not there may have been inserted until the claim was made; with the claim
 * nobody inserts it for what was pending.
 */
static void
begin_correction(Correction *correction)
{
	database = pst_find_database();
	correction->claim = NO_CLAIM;
	do
		lock_row_as_owner(correction);
	while (!claim_pending(correction));
	if (!correction->has_row)
		lock_row_as_owner(correction);
	pst_take_collected(&correction->tables, correction->id, correction->pending);
}

static void
veto_error(const Correction *correction)
{
	const PstTables *tables = &correction->tables;
	const char *trigger = pst_vetoing_trigger(tables->stats, TRIGGER_TYPE_UPDATE | TRIGGER_TYPE_INSERT);

	ereport(ERROR,
			(errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
			 errmsg("could not correct prompt %s in table %s", pst_show_id(correction->id, tables->id_kind), tables->stats_name),
			 errdetail("A trigger of the table has left its row as it was."),
			 trigger == NULL ? 0 :
			 errhint("Switch it off for the while, with ALTER TABLE %s DISABLE TRIGGER %s;",
					 tables->stats_name, quote_identifier(trigger))));
}

static void
end_correction(Correction *correction, const int64 *n)
{
	PstDeltas	deltas;

	pst_init_deltas(&deltas, &correction->tables, 1);
	memcpy(pst_add_delta(&deltas, correction->id, PST_VIEWS, 0)->n, n, sizeof(correction->row));
	if (!pst_is_zero(n) && pst_fold(&correction->tables, &deltas) == 0)
		veto_error(correction);
	finish_claim(correction->claim);
}

/* ---- arguments ---- */

/* What is pending is of now, and an older snapshot would not tell what the row holds now */
static void
check_isolation(Oid function)
{
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s() must run at isolation level READ COMMITTED", get_func_name(function)),
				 errdetail("It corrects what the counters are now."),
				 errhint("Begin the transaction with BEGIN ISOLATION LEVEL READ COMMITTED;")));
}

static Datum
need_value(FunctionCallInfo fcinfo, int argno, const char *name)
{
	if (PG_ARGISNULL(argno))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s of %s() must not be null", name, get_func_name(fcinfo->flinfo->fn_oid)),
				 errhint("Pass the id of a prompt, and 0 for what is to stay.")));
	return PG_GETARG_DATUM(argno);
}

static void
need_correction(FunctionCallInfo fcinfo, Correction *correction)
{
	Oid			function = fcinfo->flinfo->fn_oid;
	Datum		id = need_value(fcinfo, 0, "the id");
	bool		is_array;

	memset(correction, 0, sizeof(*correction));
	pst_check_may_write(function);
	check_isolation(function);
	pst_check_owner_of(pst_find_stats(function)->stats);
	correction->tables = *pst_lock_stats(function);
	correction->id = pst_only_stats_id(&correction->tables, id, pst_argument_kind(function, 0, &is_array), false);
}

/* ---- prompt_stats_reset() ---- */

/* prompt_stats_reset(id): all counters to zero, with what is pending */
Datum
prompt_stats_reset(PG_FUNCTION_ARGS)
{
	Correction	correction;
	int64		n[PST_NCOUNTERS];

	need_correction(fcinfo, &correction);
	begin_correction(&correction);
	for (int c = 0; c < PST_NCOUNTERS; c++)
		n[c] = -correction.row[c];
	end_correction(&correction, n);
	PG_RETURN_VOID();
}

/* ---- prompt_stats_correct() ---- */

static int64
held(const Correction *correction, int counter)
{
	return pst_add_saturated(correction->row[counter], correction->pending[counter]);
}

static void
negative_error(const Correction *correction, PstCounter counter, const int64 *more)
{
	const PstTables *tables = &correction->tables;
	int64		most[PST_NCOUNTERS];

	for (int c = 0; c < PST_NCOUNTERS; c++)
		most[c] = Max(more[c], -held(correction, c));
	ereport(ERROR,
			(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
			 errmsg("counter \"%s\" of table %s would become negative for prompt %s",
					pst_counter_name(counter), tables->stats_name, pst_show_id(correction->id, tables->id_kind)),
			 errdetail("It is " INT64_FORMAT ", and " INT64_FORMAT " would be added.", held(correction, counter), more[counter]),
			 errhint("Take away what there is, with SELECT %s.prompt_stats_correct(%s, " INT64_FORMAT ", " INT64_FORMAT ", " INT64_FORMAT ");",
					 quote_identifier(get_namespace_name(tables->schema)),
					 quote_literal_cstr(pst_print_id(correction->id, tables->id_kind)),
					 most[PST_VIEWS], most[PST_COPIES], most[PST_FORKS])));
}

/* prompt_stats_correct(id, views, copies, forks): adds to the counters, which stay 0 or more */
Datum
prompt_stats_correct(PG_FUNCTION_ARGS)
{
	static const char *const names[PST_NCOUNTERS] = {"argument views", "argument copies", "argument forks"};
	Correction	correction;
	int64		more[PST_NCOUNTERS];
	int64		n[PST_NCOUNTERS];

	for (int c = 0; c < PST_NCOUNTERS; c++)
		more[c] = DatumGetInt64(need_value(fcinfo, 1 + c, names[c]));
	need_correction(fcinfo, &correction);
	begin_correction(&correction);
	for (int c = 0; c < PST_NCOUNTERS; c++)
	{
		if (more[c] < 0 && pst_add_saturated(held(&correction, c), more[c]) < 0)
			negative_error(&correction, c, more);
		n[c] = pst_add_saturated(correction.pending[c], more[c]);
	}
	end_correction(&correction, n);
	PG_RETURN_VOID();
}
