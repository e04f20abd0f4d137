/*
 * fold.c
 *		The only way into table prompt_stats.
 *
 * pst_fold() adds a set of deltas to the counters, as the owner of the table,
 * inside the transaction it is called in.  pst_fold_units() does so for the flusher,
 * with many transactions' deltas: it waits for no row longer than a millisecond,
 * inserts none, and says of each transaction what became of it.
 *
 * A delta of one prompt is one update of its row, without a statement where that can be
 * (direct.c), as are the flusher's; those who wait for the same row take turns.  A larger
 * set whose rows are all there and free is updated so, too, in the order of their ids.  Else
 * it, or a prompt without a row, first inserts the rows that are missing, then locks the
 * others, both in the order of their ids, and then updates them with one statement.  No row
 * is locked before the last is inserted (but for one that is deleted just then), and an
 * insertion that meets a row of somebody else's leaves it alone: so two folds never wait for
 * each other in a circle.  Only where a trigger chooses the row that an insertion goes to they
 * can, as any two upserts can.
 *
 * Every statement (statements.c) leaves a row alone whose counter would not fit its column.
 * Whatever it left out is looked at again, and is an error then: a set is added
 * whole, or the transaction fails.  Only a trigger of the table that returns NULL
 * can have its row left out, as with any UPDATE; what else could is in unwritten.c.
 */
#include "prompt_stats.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"
#include "utils/timestamp.h"

/* Milliseconds */
#define HASTY_LOCK_MS	1		/* for a row that is locked; less is not to be
								 * had */
#define CALM_MS			500		/* after haste has failed */

/* In the tag of a lock, where SQL's advisory locks have 1 or 2 (lockfuncs.c) */
#define TURN			3

/* For rows that others delete and insert meanwhile */
#define ATTEMPTS		3

static const char *const column_names[PST_NCOUNTERS] = {
	"view_count", "copy_count", "fork_count"
};

/* Until then the flusher folds with care */
static TimestampTz calm_until = 0;

const char *
pst_counter_name(PstCounter counter)
{
	return column_names[counter];
}

/* In a copy of what we know of the table: a trigger that counts may load it anew */
typedef struct Fold
{
	PstTables	tables;
	PstDeltas  *deltas;
	int			len;			/* of deltas, at first */
	Datum		first;
	Datum		last;
	bool		takes_all;		/* what a trigger leaves out is an error */
	uint64		written;
	PstWriting	writing;
	ErrorContextCallback context;
} Fold;

/* ---- room ---- */

static void
overflow_error(const PstTables *tables, PstCounter counter, Datum id, int64 value,
			   int64 n)
{
	bool		is_int = tables->counter_max[counter] == PG_INT32_MAX;

	ereport(ERROR,
			(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
			 errmsg("counter \"%s\" of table %s is out of range for prompt %s",
					column_names[counter], tables->stats_name,
					pst_show_id(id, tables->id_kind)),
			 errdetail("It is " INT64_FORMAT ", " INT64_FORMAT
					   " would be added, and its type %s holds at most " INT64_FORMAT ".",
					   value, n, is_int ? "integer" : "bigint",
					   tables->counter_max[counter]),
			 is_int ?
			 errhint("Widen it with %s",
					 pst_alteration(tables->stats, column_names[counter],
									psprintf("ALTER COLUMN %s TYPE bigint", column_names[counter]))) :
			 errhint("Set the counters of this prompt to zero, with SELECT %s.prompt_stats_reset(%s);",
					 quote_identifier(get_namespace_name(pst_extension_schema())),
					 quote_literal_cstr(pst_print_id(id, tables->id_kind)))));
}

/* Before anything is changed: a missing row's counters start from 0 */
static void
check_deltas_fit(const PstTables *tables, const PstDeltas *deltas)
{
	for (int i = 0; i < deltas->len; i++)
		for (int c = 0; c < PST_NCOUNTERS; c++)
			if (deltas->items[i].n[c] > tables->counter_max[c])
				overflow_error(tables, c, deltas->items[i].id, 0,
							   deltas->items[i].n[c]);
}

/* Finds the counter that has no room, if there is one */
static void
check_counters_fit(const PstTables *tables, const PstDeltas *deltas)
{
	pst_look_at_rows(tables, deltas);
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[row];
		bool		isnull;
		Datum		id = SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &isnull);
		PstDelta   *delta = pst_find_delta(deltas, id);

		for (int c = 0; delta != NULL && c < PST_NCOUNTERS; c++)
		{
			Datum		value = SPI_getbinval(tuple, SPI_tuptable->tupdesc, 2 + c, &isnull);

			if (!isnull && delta->n[c] > 0 &&
				DatumGetInt64(value) > tables->counter_max[c] - delta->n[c])
				overflow_error(tables, c, id, DatumGetInt64(value), delta->n[c]);
		}
	}
}

/* ---- rows that are missing ---- */

/* The error context of an upsert */
typedef struct Upsert
{
	const PstTables *tables;
	const PstDelta *delta;
} Upsert;

/* Which row has no room is known to the trigger alone */
static void
upsert_context(void *arg)
{
	const Upsert *upsert = arg;

	if (geterrcode() == ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE)
		errhint("Correct the counter of the row in which it is counted, or count fewer at once.");
	errcontext("counting prompt %s", pst_show_id(upsert->delta->id, upsert->tables->id_kind));
}

/*
 * Where a trigger has a say in what is inserted, a row that was inserted may not be found again.
 * What it lets through is counted, in whatever row; what it returns NULL for is not, as with
 * any INSERT.
 */
static void
upsert_rows(Fold *fold, PstDeltas *deltas)
{
	Upsert		upsert = {.tables = &fold->tables};
	ErrorContextCallback context = {error_context_stack, upsert_context, &upsert};

	error_context_stack = &context;
	for (int i = 0; i < deltas->len; i++)
	{
		uint64		written;

		upsert.delta = &deltas->items[i];
		written = pst_upsert_row(&fold->tables, upsert.delta);
		if (written == 0 && fold->takes_all)
			pst_veto_error(&fold->tables, upsert.delta->id);
		fold->written += written;
	}
	error_context_stack = context.previous;
	deltas->len = 0;
}

static void
insert_rows(Fold *fold, PstDeltas *deltas)
{
	fold->written += pst_insert_rows(&fold->tables, deltas);
}

/* An insertion that may fail and be undone */
typedef struct Trial
{
	Fold	   *fold;
	void		(*insert) (Fold *, PstDeltas *);
	PstDeltas	deltas;
} Trial;

static void
run_trial(void *arg)
{
	Trial	   *trial = arg;

	trial->insert(trial->fold, &trial->deltas);
}

/* False where a key was in the way: then nothing was inserted, and the set is as it was */
static bool
try_to_insert(Fold *fold, PstDeltas *deltas, void (*insert) (Fold *, PstDeltas *))
{
	Trial		trial = {.fold = fold,.insert = insert,.deltas = *deltas};
	uint64		written = fold->written;
	ErrorData  *error;

	trial.deltas.size = deltas->len;
	trial.deltas.items = palloc(deltas->len * sizeof(PstDelta));
	memcpy(trial.deltas.items, deltas->items, deltas->len * sizeof(PstDelta));
	error = pst_attempt(run_trial, &trial);
	if (error == NULL)
	{
		*deltas = trial.deltas;
		return true;
	}
	if (error->sqlerrcode != ERRCODE_UNIQUE_VIOLATION && error->sqlerrcode != ERRCODE_EXCLUSION_VIOLATION)
		ReThrowError(error);
	FreeErrorData(error);
	fold->written = written;
	return false;
}

/* By itself, and in the end without a net */
static void
insert_one(Fold *fold, PstDeltas *delta, void (*insert) (Fold *, PstDeltas *))
{
	for (int attempt = 1; attempt < ATTEMPTS; attempt++)
		if (try_to_insert(fold, delta, insert))
			return;
	insert(fold, delta);
}

/*
 * An insertion can name one key whose conflicts it takes for a row that is there.  Who inserts
 * the same prompt at the same time may be met in another key, which is an error,
 * though the next attempt finds his row.
 */
static void
insert_again(Fold *fold, PstDeltas *deltas, void (*insert) (Fold *, PstDeltas *))
{
	int			left = 0;

	if (try_to_insert(fold, deltas, insert))
		return;
	for (int i = 0; i < deltas->len; i++)
	{
		PstDelta	item = deltas->items[i];
		PstDeltas	delta = *deltas;

		delta.items = &item;
		delta.len = delta.size = 1;
		insert_one(fold, &delta, insert);
		if (delta.len > 0)
			deltas->items[left++] = item;
	}
	deltas->len = left;
}

/* These are done, and leave the set; those who have a row by now stay */
static void
insert_any(Fold *fold, PstDeltas *deltas, bool is_last_attempt)
{
	const PstTables *tables = &fold->tables;
	void		(*insert) (Fold *, PstDeltas *) = tables->alters_inserts ? upsert_rows : insert_rows;

	pst_check_no_insert_rule(tables);
	if (tables->has_other_keys && (tables->alters_inserts || tables->has_late_keys))
		insert_again(fold, deltas, insert);
	else if (tables->has_other_keys && !is_last_attempt)
		fold->written += pst_insert_free_rows(tables, deltas);
	else
		insert(fold, deltas);
}

/* Inserts rows for the deltas that have none */
static void
insert_missing(Fold *fold, bool is_last_attempt)
{
	PstDeltas  *deltas = fold->deltas;
	PstDeltas	existing;

	pst_move_existing(&fold->tables, deltas, &existing);
	if (deltas->len > 0)
		insert_any(fold, deltas, is_last_attempt);
	for (int i = 0; i < existing.len; i++)
		pst_append_delta(deltas, &existing.items[i]);
	pst_merge_deltas(deltas);
}

/* ---- rows that are there ---- */

/* Their rows are locked, have room, and were not updated */
static void
check_vetoed(const PstTables *tables, const PstDeltas *left_out, bool takes_all)
{
	if (left_out->len == 0)
		return;
	if (!tables->may_veto)
		pst_unwritten_error(tables, left_out->items[0].id);
	if (takes_all)
		pst_veto_error(tables, left_out->items[0].id);
}

/*
 * Where a trigger may leave a row out, the others can't be told from those without room
 * afterwards.
 */
static void
update_locked(Fold *fold, PstDeltas *locked)
{
	const PstTables *tables = &fold->tables;

	if (tables->runs_code)
		check_counters_fit(tables, locked);
	fold->written += pst_update_rows(tables, locked);
	if (locked->len > 0 && !tables->runs_code)
		check_counters_fit(tables, locked);
	check_vetoed(tables, locked, fold->takes_all);
}

/* Locks the rows of the deltas, and updates them; these are done, and leave the set */
static void
update_existing(Fold *fold)
{
	PstDeltas	locked;

	if (fold->deltas->len == 0)
		return;
	pst_move_locked(&fold->tables, fold->deltas, &locked);
	if (locked.len > 0)
		update_locked(fold, &locked);
}

/* In the scope of the owner, for a row that he did not find */
void
pst_check_not_hidden(const PstTables *tables, Datum id)
{
	if (pst_has_policies(tables))
		pst_hidden_row_error(tables, id);
}

/* Neither inserted nor found: else others delete and insert it faster than we look */
static void
check_none_left(const PstTables *tables, const PstDeltas *deltas)
{
	if (deltas->len == 0)
		return;
	if (pst_has_policies(tables))
		pst_hidden_row_error(tables, deltas->items[0].id);
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not count prompt %s in table %s",
					pst_show_id(deltas->items[0].id, tables->id_kind), tables->stats_name),
			 errdetail("Its row is deleted and inserted by others again and again."),
			 errhint("Retry the transaction.")));
}

/* A row that was there may be gone when it is to be locked: again, then */
static void
fold_by_statements(Fold *fold)
{
	pst_explain_writing(&fold->tables, &fold->writing);
	for (int attempt = 1; attempt <= ATTEMPTS && fold->deltas->len > 0; attempt++)
	{
		insert_missing(fold, attempt == ATTEMPTS);
		update_existing(fold);
	}
	check_none_left(&fold->tables, fold->deltas);
}

static void
fold_many(Fold *fold)
{
	fold->written = pst_update_directly_in_order(&fold->tables, fold->deltas);
	fold_by_statements(fold);
}

/*
 * A turn at a row that is busy, as a lock of the server's.  All who wait for one row are
 * woken by each commit (heapam.c: heap_update), and with many nearly all time goes there; who
 * waits for a lock is woken alone, in the order of coming.  So one waits for the row, and
 * the others for him.  Whoever finds the row free takes it, though others may be on their way:
 * handing it on in order would cost a context switch each time.  A turn ends when the row is
 * written: who holds one or waits for one holds no row.
 */
static void
set_turn_tag(LOCKTAG *tag, const PstTables *tables, Datum id)
{
	Size		len = pst_id_bytes(id, tables->id_kind, NULL);
	unsigned char *bytes = palloc(Max(len, 1));
	uint64		hash;

	(void) pst_id_bytes(id, tables->id_kind, (char *) bytes);
	hash = hash_bytes_extended(bytes, len, tables->stats);
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, (uint32) (hash >> 32), (uint32) hash, TURN);
	pfree(bytes);
}

/* Waits for who is writing the row, if anybody; one that is hard to get is for a statement */
static uint64
update_when_free(const PstTables *tables, PstDeltas *deltas, TransactionId writer)
{
	for (int attempt = 0; attempt < 3 && TransactionIdIsValid(writer); attempt++)
	{
		XactLockTableWait(writer, NULL, NULL, XLTW_None);
		if (pst_update_directly(tables, deltas, &writer) > 0)
			return 1;
	}
	return pst_update_rows(tables, deltas);
}

static uint64
update_in_turn(const PstTables *tables, PstDeltas *deltas, TransactionId writer)
{
	LOCKTAG		tag;
	uint64		written;

	set_turn_tag(&tag, tables, deltas->items[0].id);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
	written = update_when_free(tables, deltas, writer);
	(void) LockRelease(&tag, ExclusiveLock, false);
	return written;
}

/*
 * Who has written may hold the row that others wait for in turn, and must not wait for them.
 * Nor is it for tables whose triggers could wait for other rows meanwhile.
 */
static bool
takes_turns(const PstTables *tables)
{
	return OidIsValid(tables->direct_index) && !TransactionIdIsValid(GetTopTransactionIdIfAny());
}

static void
fold_one(Fold *fold)
{
	const PstTables *tables = &fold->tables;
	TransactionId writer;

	fold->written = pst_update_directly(tables, fold->deltas, &writer);
	if (fold->written == 0)
		fold->written = takes_turns(tables) ?
			update_in_turn(tables, fold->deltas, writer) : update_when_free(tables, fold->deltas, writer);
	if (fold->written == 0)
		fold_by_statements(fold);
}

/* ---- many transactions' deltas at once ---- */

/* What was found of a prompt in the table */
typedef struct RowState
{
	bool		exists;
	bool		locked;			/* by us: we may update it */
	int64		room[PST_NCOUNTERS];	/* left until the counter overflows */
} RowState;

/* The prompts of all units, and what was found of each */
typedef struct Rows
{
	PstDeltas	prompts;		/* merged; the numbers are not used */
	RowState   *states;
} Rows;

static RowState *
state_of(const Rows *rows, Datum id)
{
	PstDelta   *prompt = pst_find_delta(&rows->prompts, id);

	return prompt == NULL ? NULL : &rows->states[prompt - rows->prompts.items];
}

/* Without their numbers, whose sums could overflow */
static void
collect_prompts(const PstTables *tables, const PstDeltas *units,
				const PstVerdict *verdicts, int nunits, Rows *rows)
{
	pst_init_deltas(&rows->prompts, tables, nunits);
	for (int u = 0; u < nunits; u++)
		for (int i = 0; verdicts[u] == PST_VERDICT_FOLDED && i < units[u].len; i++)
			(void) pst_add_delta(&rows->prompts, units[u].items[i].id, PST_VIEWS, 0);
	pst_sort_deltas(&rows->prompts);
	rows->states = palloc0(Max(rows->prompts.len, 1) * sizeof(RowState));
}

static void
sum_units(const PstTables *tables, const PstDeltas *units,
		  const PstVerdict *verdicts, int nunits, PstDeltas *sum)
{
	pst_init_deltas(sum, tables, nunits);
	for (int u = 0; u < nunits; u++)
		for (int i = 0; verdicts[u] == PST_VERDICT_FOLDED && i < units[u].len; i++)
			memcpy(pst_add_delta(sum, units[u].items[i].id, PST_VIEWS, 0)->n,
				   units[u].items[i].n, sizeof(units[u].items[i].n));
	pst_merge_deltas(sum);
}

static void
read_room(const PstTables *tables, uint64 row, RowState *state)
{
	for (int c = 0; c < PST_NCOUNTERS; c++)
	{
		bool		isnull;
		Datum		value = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc,
										  2 + c, &isnull);
		int64		held = isnull ? 0 : DatumGetInt64(value);

		state->room[c] = tables->counter_max[c] - Max(held, 0);
	}
}

/* Notes each row that was found */
static void
note_rows(const PstTables *tables, Rows *rows, bool locked)
{
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		bool		isnull;
		Datum		id = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc,
									   1, &isnull);
		RowState   *state = state_of(rows, id);

		if (state == NULL)
			continue;
		state->exists = true;
		state->locked |= locked;
		read_room(tables, row, state);
	}
	SPI_freetuptable(SPI_tuptable);
}

/* Takes the room that a unit needs; false, with none taken, where there is not enough */
static bool
take_room(const PstDeltas *unit, const Rows *rows)
{
	for (int i = 0; i < unit->len; i++)
		for (int c = 0; c < PST_NCOUNTERS; c++)
			if (unit->items[i].n[c] > state_of(rows, unit->items[i].id)->room[c])
				return false;
	for (int i = 0; i < unit->len; i++)
		for (int c = 0; c < PST_NCOUNTERS; c++)
			state_of(rows, unit->items[i].id)->room[c] -= Max(unit->items[i].n[c], 0);
	return true;
}

/* "hidden": a row that could not be locked may be one that policies keep from us, not others */
static PstVerdict
judge_unit(const PstDeltas *unit, const Rows *rows, bool hidden)
{
	bool		later = false;

	for (int i = 0; i < unit->len; i++)
	{
		RowState   *state = state_of(rows, unit->items[i].id);

		if (!state->exists)
			return PST_VERDICT_RETURNED;
		later |= !state->locked;
	}
	if (later)
		return hidden ? PST_VERDICT_RETURNED : PST_VERDICT_LATER;
	return take_room(unit, rows) ? PST_VERDICT_FOLDED : PST_VERDICT_RETURNED;
}

/* Locks the rows that it can */
static void
judge_units(const PstTables *tables, const PstDeltas *units, PstVerdict *verdicts, int nunits)
{
	Rows		rows;
	bool		all_locked = true;
	bool		hidden = pst_has_policies(tables);

	collect_prompts(tables, units, verdicts, nunits, &rows);
	if (rows.prompts.len == 0)
		return;
	pst_lock_free_rows(tables, &rows.prompts);
	note_rows(tables, &rows, true);
	for (int i = 0; i < rows.prompts.len; i++)
		all_locked &= rows.states[i].locked;
	if (!all_locked)
	{
		pst_look_at_rows(tables, &rows.prompts);
		note_rows(tables, &rows, false);
	}
	for (int u = 0; u < nunits; u++)
		if (verdicts[u] == PST_VERDICT_FOLDED)
			verdicts[u] = judge_unit(&units[u], &rows, hidden);
}

static void
fold_judged(const PstTables *tables, const PstDeltas *units, PstVerdict *verdicts, int nunits)
{
	PstDeltas	sum;

	judge_units(tables, units, verdicts, nunits);
	sum_units(tables, units, verdicts, nunits, &sum);
	if (sum.len > 0)
		(void) pst_update_rows(tables, &sum);
	check_vetoed(tables, &sum, false);
}

/* Each will meet the error by itself */
static void
return_units(PstVerdict *verdicts, int nunits)
{
	for (int u = 0; u < nunits; u++)
		verdicts[u] = PST_VERDICT_RETURNED;
}

/* ---- in haste ---- */

/*
 * Most often no row is locked, missing or full: then one plain UPDATE does.
 * Locking the rows first costs a second descent of the index and a WAL record each.
 * Whatever haste meets fails the transaction, and for a while nobody is hasty.
 */
bool
pst_may_hurry(const PstTables *tables)
{
	return !tables->runs_code && GetCurrentTimestamp() >= calm_until;
}

/* Directly what can be, and the rest with a statement */
static void
update_quickly(const PstTables *tables, PstDeltas *deltas)
{
	TransactionId writer;

	(void) pst_update_directly(tables, deltas, &writer);
	if (deltas->len > 0)
		(void) pst_update_rows(tables, deltas);
}

static void
update_in_haste(const PstTables *tables, PstDeltas *sum)
{
	int			timeout = LockTimeout;

	PG_TRY();
	{
		LockTimeout = HASTY_LOCK_MS;
		update_quickly(tables, sum);
	}
	PG_FINALLY();
	{
		LockTimeout = timeout;
	}
	PG_END_TRY();
	if (sum->len > 0)
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("some prompts have no row, or no room in it")));
}

/* All of them, or the transaction fails: then it is to be tried again with care */
static void
fold_in_haste(const PstTables *tables, const PstDeltas *units, const PstVerdict *verdicts,
			  int nunits)
{
	PstDeltas	sum;

	calm_until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), CALM_MS);	/* if this fails */
	sum_units(tables, units, verdicts, nunits, &sum);
	if (sum.len > 0)
		update_in_haste(tables, &sum);
	calm_until = 0;
}

/* ---- the fold ---- */

static void
begin_fold(Fold *fold)
{
	fold->writing.name = fold->tables.stats_name;
	if (!OidIsValid(fold->tables.direct_index))
		pst_explain_writing(&fold->tables, &fold->writing);
	fold->context.previous = error_context_stack;
	fold->context.callback = pst_unwritten_context;
	fold->context.arg = &fold->writing;
	error_context_stack = &fold->context;
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
}

static void
end_fold(Fold *fold)
{
	SPI_finish();
	error_context_stack = fold->context.previous;
}

/* The server's own errors don't name the prompt */
static void
fold_context(void *arg)
{
	const Fold *fold = arg;
	PstIdKind	kind = fold->tables.id_kind;

	if (fold->len == 1)
		errcontext("counting prompt %s", pst_show_id(fold->first, kind));
	else
		errcontext("counting %d prompts from %s to %s", fold->len,
				   pst_show_id(fold->first, kind), pst_show_id(fold->last, kind));
}

static void
fold_set(void *arg)
{
	Fold	   *fold = arg;
	ErrorContextCallback naming = {error_context_stack, fold_context, fold};

	error_context_stack = &naming;
	begin_fold(fold);
	check_deltas_fit(&fold->tables, fold->deltas);
	pst_check_no_update_rule(&fold->tables);
	if (fold->deltas->len == 1)
		fold_one(fold);
	else
		fold_many(fold);
	end_fold(fold);
	error_context_stack = naming.previous;
}

static uint64
fold_as_owner(const PstTables *known, PstDeltas *deltas, bool takes_all)
{
	Fold		fold = {.tables = *known,.deltas = deltas,.takes_all = takes_all};
	PstScope	scope;

	pst_fit_ids(known, deltas);
	pst_merge_deltas(deltas);
	if (deltas->len == 0)
		return 0;
	scope = pst_scope_of(known->stats_owner, fold.tables.stats_path);
	scope.writes = known->stats;
	fold.len = deltas->len;
	fold.first = deltas->items[0].id;
	fold.last = deltas->items[deltas->len - 1].id;
	pst_as_owner(&scope, fold_set, &fold);
	return fold.written;
}

/*
 * Adds the deltas to the counters; merges them in place first.  The caller has
 * locked the table with pst_lock_stats() and has an active snapshot.  Returns the
 * number of rows written: fewer than deltas where a trigger suppressed some.
 */
uint64
pst_fold(const PstTables *tables, PstDeltas *deltas)
{
	return fold_as_owner(tables, deltas, false);
}

/* The same, but a trigger must not suppress any */
uint64
pst_fold_all(const PstTables *tables, PstDeltas *deltas)
{
	return fold_as_owner(tables, deltas, true);
}

/*
 * The same for the flusher, which acts as the owner already: of the units whose
 * verdict is FOLDED it folds those that it can, each whole or not at all, and says
 * what became of each.  Rows that somebody else has locked are left for later;
 * only rows that exist are updated.
 *
 * In haste it folds all, or fails the transaction: then it is to be tried again, with
 * pst_may_hurry() false.
 */
void
pst_fold_units(const PstTables *known, const PstDeltas *units, PstVerdict *verdicts, int nunits,
			   bool in_haste)
{
	Fold		fold = {.tables = *known};
	const PstTables *tables = &fold.tables;

	begin_fold(&fold);
	if (in_haste)
		fold_in_haste(tables, units, verdicts, nunits);
	else if (pst_has_update_rule(tables))
		return_units(verdicts, nunits);
	else
		fold_judged(tables, units, verdicts, nunits);
	end_fold(&fold);
}
