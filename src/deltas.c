/*
 * deltas.c
 *		Sets of deltas.
 */
#include "prompt_stats.h"

#include "common/int.h"

/* Allocates in the current memory context, where the set also grows */
void
pst_init_deltas(PstDeltas *deltas, const PstTables *tables, int size)
{
	deltas->kind = tables->id_kind;
	deltas->collation = tables->id_collation;
	deltas->len = 0;
	deltas->size = Max(size, 1);
	deltas->items = palloc(deltas->size * sizeof(PstDelta));
}

/* Takes the id as it is: the caller sees that it lives as long as the set */
PstDelta *
pst_add_delta(PstDeltas *deltas, Datum id, PstCounter counter, int64 n)
{
	PstDelta   *delta;

	if (deltas->len == deltas->size)
	{
		deltas->size *= 2;
		deltas->items = repalloc_huge(deltas->items,
									  deltas->size * sizeof(PstDelta));
	}
	delta = &deltas->items[deltas->len++];
	memset(delta, 0, sizeof(*delta));
	delta->id = id;
	delta->n[counter] = n;
	return delta;
}

void
pst_append_delta(PstDeltas *deltas, const PstDelta *delta)
{
	*pst_add_delta(deltas, delta->id, PST_VIEWS, 0) = *delta;
}

static int
compare_deltas(const void *a, const void *b, void *arg)
{
	const PstDeltas *deltas = arg;

	return pst_compare_ids(((const PstDelta *) a)->id, ((const PstDelta *) b)->id,
						   deltas->kind, deltas->collation);
}

static void
add_up(PstDelta *sum, const PstDelta *delta, PstIdKind kind)
{
	for (int c = 0; c < PST_NCOUNTERS; c++)
		if (pg_add_s64_overflow(sum->n[c], delta->n[c], &sum->n[c]))
			ereport(ERROR,
					(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
					 errmsg("the sum of the counts of prompt %s is out of range",
							pst_show_id(sum->id, kind)),
					 errhint("Count fewer at once.")));
}

bool
pst_is_zero(const int64 *n)
{
	return n[PST_VIEWS] == 0 && n[PST_COPIES] == 0 && n[PST_FORKS] == 0;
}

/* For statistics: a sum that has no room for more stays as large as can be */
int64
pst_add_saturated(int64 a, int64 b)
{
	int64		sum;

	if (pg_add_s64_overflow(a, b, &sum))
		return b > 0 ? PG_INT64_MAX : PG_INT64_MIN;
	return sum;
}

/* Of all counters of a prompt */
int64
pst_total(const int64 *n)
{
	return pst_add_saturated(pst_add_saturated(n[PST_VIEWS], n[PST_COPIES]), n[PST_FORKS]);
}

/* Of all counters of all prompts */
int64
pst_total_of(const PstDeltas *deltas)
{
	int64		total = 0;

	for (int i = 0; i < deltas->len; i++)
		total = pst_add_saturated(total, pst_total(deltas->items[i].n));
	return total;
}

ArrayType *
pst_ids_of(const PstDeltas *deltas)
{
	Datum	   *ids = palloc(Max(deltas->len, 1) * sizeof(Datum));

	for (int i = 0; i < deltas->len; i++)
		ids[i] = deltas->items[i].id;
	return pst_id_array(ids, deltas->len, deltas->kind);
}

/* Sorted by id, one delta a prompt */
void
pst_sort_deltas(PstDeltas *deltas)
{
	PstDelta   *items = deltas->items;
	int			len = 0;

	if (deltas->len > 1)
		qsort_arg(items, deltas->len, sizeof(PstDelta), compare_deltas, deltas);
	for (int i = 0; i < deltas->len; i++)
	{
		if (len > 0 && compare_deltas(&items[len - 1], &items[i], deltas) == 0)
			add_up(&items[len - 1], &items[i], deltas->kind);
		else
			items[len++] = items[i];
	}
	deltas->len = len;
}

/* The same, without those that add nothing */
void
pst_merge_deltas(PstDeltas *deltas)
{
	int			len = 0;

	pst_sort_deltas(deltas);
	for (int i = 0; i < deltas->len; i++)
		if (!pst_is_zero(deltas->items[i].n))
			deltas->items[len++] = deltas->items[i];
	deltas->len = len;
}

/* In a merged set; NULL where the prompt has no delta */
PstDelta *
pst_find_delta(const PstDeltas *deltas, Datum id)
{
	PstDelta	key = {.id = id};

	return bsearch_arg(&key, deltas->items, deltas->len, sizeof(PstDelta),
					   compare_deltas, unconstify(PstDeltas *, deltas));
}

/* From a merged set */
void
pst_remove_deltas(PstDeltas *deltas, ArrayType *ids)
{
	Datum	   *elements;
	bool	   *nulls;
	int			len;

	pst_deconstruct_ids(ids, deltas->kind, &elements, &nulls, &len);
	for (int i = 0; i < len; i++)
	{
		PstDelta   *delta = pst_find_delta(deltas, elements[i]);

		if (delta != NULL)
			memset(delta->n, 0, sizeof(delta->n));
	}
	pst_merge_deltas(deltas);
}
