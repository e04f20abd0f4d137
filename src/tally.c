/*
 * tally.c
 *		Adding up the legacy rows that a DELETE returns, as it returns them.
 *
 * A receiver (dest.h) rather than SQL: the rows are neither stored nor read again.
 */
#include "prompt_stats.h"

#include "tcop/dest.h"
#include "utils/hsearch.h"
#include "utils/uuid.h"

/* Text ids go into the set as they come, which is merged when it has grown so far */
#define MERGE_AT 65536

typedef struct TallyEntry
{
	char		id[UUID_LEN];	/* a uuid, or a bigint and zeros: the key */
	int64		views;
	int64		copies;
} TallyEntry;

struct PstTally
{
	DestReceiver receiver;		/* must be first */
	int64		rows;
	ItemPointerData last;		/* where the last row was */
	HTAB	   *entries;		/* of uuid and bigint ids */
	PstDeltas	deltas;			/* of text ids; in the end of all */
	MemoryContext context;
};

static bool
is_kind(Datum event_type, const char *kind)
{
	struct varlena *value = PG_DETOAST_DATUM_PACKED(event_type);

	return VARSIZE_ANY_EXHDR(value) == strlen(kind) &&
		memcmp(VARDATA_ANY(value), kind, strlen(kind)) == 0;
}

static void
add_fixed(PstTally *tally, Datum id, int views, int copies)
{
	char		key[UUID_LEN] = {0};
	int64		number;
	TallyEntry *entry;
	bool		found;

	if (tally->deltas.kind == PST_BIGINT)
	{
		number = DatumGetInt64(id);
		memcpy(key, &number, sizeof(number));
	}
	else
		memcpy(key, DatumGetUUIDP(id)->data, UUID_LEN);

	entry = hash_search(tally->entries, key, HASH_ENTER, &found);
	entry->views = (found ? entry->views : 0) + views;
	entry->copies = (found ? entry->copies : 0) + copies;
}

static void
add_text(PstTally *tally, Datum id, int views, int copies)
{
	MemoryContext caller = MemoryContextSwitchTo(tally->context);

	if (tally->deltas.len >= MERGE_AT)
		pst_sort_deltas(&tally->deltas);
	pst_add_delta(&tally->deltas, pst_copy_id(id, PST_TEXT), PST_VIEWS, views)->n[PST_COPIES] = copies;
	MemoryContextSwitchTo(caller);
}

/* A row (prompt_id, event_type, ctid) */
static bool
receive_row(TupleTableSlot *slot, DestReceiver *self)
{
	PstTally   *tally = (PstTally *) self;
	bool		no_id;
	bool		no_kind;
	bool		no_ctid;
	Datum		id = slot_getattr(slot, 1, &no_id);
	Datum		kind = slot_getattr(slot, 2, &no_kind);
	bool		is_view = !no_kind && is_kind(kind, "view");
	bool		is_copy = !no_kind && !is_view && is_kind(kind, "copy");

	tally->rows++;
	tally->last = *(ItemPointer) DatumGetPointer(slot_getattr(slot, 3, &no_ctid));
	if (no_id || !(is_view || is_copy))
		return true;
	if (tally->entries != NULL)
		add_fixed(tally, id, is_view, is_copy);
	else
		add_text(tally, id, is_view, is_copy);
	return true;
}

static void
start_nothing(DestReceiver *self, int operation, TupleDesc desc)
{
}

static void
do_nothing(DestReceiver *self)
{
}

/* In the current memory context, where all that it holds will live */
PstTally *
pst_create_tally(const PstTables *tables)
{
	PstTally   *tally = palloc0(sizeof(PstTally));
	HASHCTL		control = {
		.keysize = UUID_LEN,
		.entrysize = sizeof(TallyEntry),
		.hcxt = CurrentMemoryContext,
	};

	tally->receiver.receiveSlot = receive_row;
	tally->receiver.rStartup = start_nothing;
	tally->receiver.rShutdown = do_nothing;
	tally->receiver.rDestroy = do_nothing;
	tally->receiver.mydest = DestNone;
	tally->context = CurrentMemoryContext;
	pst_init_deltas(&tally->deltas, tables, 1024);
	if (tables->id_kind != PST_TEXT)
		tally->entries = hash_create("prompt_stats tally", 1024, &control,
									 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	return tally;
}

DestReceiver *
pst_tally_receiver(PstTally *tally)
{
	return &tally->receiver;
}

/* The number of rows, their sums, merged, and if asked for and any, the last one */
int64
pst_finish_tally(PstTally *tally, PstDeltas *deltas, ItemPointer last)
{
	HASH_SEQ_STATUS scan;
	TallyEntry *entry;
	int64		number;

	if (tally->entries != NULL)
	{
		hash_seq_init(&scan, tally->entries);
		while ((entry = hash_seq_search(&scan)) != NULL)
		{
			Datum		id = PointerGetDatum(entry->id);

			if (tally->deltas.kind == PST_BIGINT)
			{
				memcpy(&number, entry->id, sizeof(number));
				id = Int64GetDatum(number);
			}
			pst_add_delta(&tally->deltas, id, PST_VIEWS, entry->views)->n[PST_COPIES] = entry->copies;
		}
	}
	pst_merge_deltas(&tally->deltas);
	*deltas = tally->deltas;
	if (last != NULL && tally->rows > 0)
		*last = tally->last;
	return tally->rows;
}
