/*
 * pending.c
 *		Counts of durability "async": held in memory from COMMIT until they are folded.
 *
 * A table of sums, one entry a prompt, in partitions.  A partition is all under its
 * own lock, and keeps its own ledger: accepted = flushed + rejected + what its
 * entries hold, whenever the lock is free.  Who wants the sums of one instant takes
 * the locks of all.
 *
 * The life of a count:
 *
 * 1. When COMMIT closes portals (portal.c), its transaction reserves the entry, which may fail: then the
 *	  transaction folds its own.  A reserved entry stays where it is.
 * 2. At COMMIT it is added to the entry: nothing is allocated, nothing can fail.  At
 *	  ABORT the reservation is given back.
 * 3. The flusher, alone, moves the sum from "pending" to a new flight, tagged with the
 *	  XID of its transaction, and folds it.  Its commit lands the flight.  Its abort
 *	  turns it back: the sum is pending again.
 * 4. What can't be folded is rejected: it leaves the entry for the ledger and the log.
 *	  What may have been in the way of that is counted in the history of the entry, so that
 *	  a new flusher knows what the last one died of.
 * 5. A correction (correct.c) makes what is pending of a prompt a flight of its own transaction;
 *	  the flusher leaves such a prompt alone until that has ended.
 *
 * Why nothing is lost or doubled: a sum moves from one place to the other under the
 * lock, and the last step is made in the flusher's own commit or abort callback, so
 * its outcome is always known.  A crash takes this memory along, with what was not
 * folded; a shutdown does not, for the flusher goes only when nothing is reserved
 * and nothing is pending.
 *
 * Exact reads.  A statement's snapshot is older than the moment when it looks here, so
 * what has left "pending" may be in the table, but not for this snapshot.  Hence the
 * flights are kept in the history of their entry: a reader adds those whose XID its snapshot
 * misses, or that did not commit.  Only the last PST_FLIGHTS are kept, and an entry goes when
 * nothing is pending.  A reader whose snapshot misses a flight that was dropped can't be
 * told: it takes another snapshot.  So does one that finds no entry, or one without a history,
 * where one was evicted with a flight that its snapshot misses.
 */
#include "prompt_stats.h"

#include "shared.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "storage/procarray.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

/* A transaction that counted more prompts than this folds its own */
#define MAX_RESERVED	1024

/* No sum comes near an overflow, nor does the ledger's of all partitions */
#define MAX_N			(INT64CONST(1) << 40)
#define MAX_SUM			(INT64CONST(1) << 61)
#define MAX_ACCEPTED	(MAX_SUM / PST_PARTITIONS)

/* How often entries are looked for that nobody needs */
#define TIDY_MS			500

static const PstTries no_tries = {0, 0};

/* What this transaction has reserved; in TopMemoryContext */
static PstHold *reserved = NULL;
static int	nreserved = 0;
static int	size_reserved = 0;

/* ---- a partition ---- */

static Size
buckets_size(uint32 nbuckets)
{
	return offsetof(PstEntries, buckets) + nbuckets * sizeof(uint32);
}

/* The same place for every backend, as segments are mapped by pages */
static PstEntry *
entries_of(PstEntries *memory)
{
	return (PstEntry *) TYPEALIGN(PST_ENTRY_SIZE, (char *) memory + buckets_size(memory->nbuckets));
}

static PstHistory *
history_of(PstEntries *memory, const PstEntry *entry)
{
	PstEntry   *entries = entries_of(memory);

	return (PstHistory *) (entries + memory->size) + (entry - entries);
}

/* One or two entries in each */
static uint32
buckets_for(uint32 size)
{
	return pg_prevpower2_32(size);
}

static Size
memory_size(uint32 size)
{
	return buckets_size(buckets_for(size)) + PST_ENTRY_SIZE +
		size * (sizeof(PstEntry) + sizeof(PstHistory));
}

/* As many as fit into this partition's share of prompt_stats.max_pending */
static uint32
configured_size(void)
{
	Size		share = (Size) pst_max_pending * 1024 / PST_PARTITIONS;

	return share / (sizeof(PstEntry) + sizeof(PstHistory) + sizeof(uint32));
}

/* Under the lock of the partition; its segment is mapped, or is now, which does not fail */
static PstEntries *
memory_of(PstPartition *partition)
{
	return DsaPointerIsValid(partition->memory) ?
		dsa_get_address(pst_area, partition->memory) : NULL;
}

static void
add(int64 *to, const int64 *n)
{
	for (int c = 0; c < PST_NCOUNTERS; c++)
		to[c] += n[c];
}

/* Then it is flushed at once, and what it does not need goes */
static bool
is_crowded(const PstEntries *memory)
{
	return memory->used > memory->size / 2;
}

static void
init_memory(PstEntries *memory, uint32 size)
{
	memory->nbuckets = buckets_for(size);
	memory->size = size;
	memory->used = 0;
	memory->high = 0;
	memory->free = PST_NONE;
	for (uint32 i = 0; i < memory->nbuckets; i++)
		memory->buckets[i] = PST_NONE;
}

/* False where there is none to be had.  Allocated before the lock is taken. */
static bool
ensure_memory(PstPartition *partition)
{
	uint32		size = configured_size();
	dsa_pointer new;

	if (DsaPointerIsValid(partition->memory))
		return true;
	new = pst_allocate(memory_size(size));
	if (!DsaPointerIsValid(new))
		return false;
	init_memory(dsa_get_address(pst_area, new), size);

	LWLockAcquire(&partition->lock, LW_EXCLUSIVE);
	if (!DsaPointerIsValid(partition->memory))
	{
		partition->memory = new;
		new = InvalidDsaPointer;
	}
	LWLockRelease(&partition->lock);
	if (DsaPointerIsValid(new))
		dsa_free(pst_area, new);
	return true;
}

/* ---- entries ---- */

/* False where the id is too long */
static bool
make_key(PstKey *key, Oid stats, PstIdKind kind, Datum id)
{
	Size		len = pst_id_bytes(id, kind, NULL);

	if (len > PST_ID_BYTES)
		return false;
	memset(key, 0, sizeof(*key));
	key->stats = stats;
	key->kind = kind;
	key->len = len;
	(void) pst_id_bytes(id, kind, key->id);
	return true;
}

static uint32
hash_key(const PstKey *key)
{
	return hash_bytes((const unsigned char *) key, offsetof(PstKey, id) + key->len);
}

static PstPartition *
partition_of(PstDatabase *db, uint32 hash)
{
	return &db->partitions[hash % PST_PARTITIONS];
}

static uint32 *
bucket_of(PstEntries *memory, uint32 hash)
{
	return &memory->buckets[(hash / PST_PARTITIONS) & (memory->nbuckets - 1)];
}

static char *
tail_of(PstEntries *memory, const PstEntry *entry)
{
	return history_of(memory, entry)->id_tail;
}

static bool
is_entry_of(PstEntries *memory, const PstEntry *entry, const PstKey *key)
{
	return entry->stats == key->stats && entry->kind == key->kind && entry->len == key->len &&
		memcmp(entry->id, key->id, PST_ID_HEAD) == 0 &&
		(key->len <= PST_ID_HEAD || memcmp(tail_of(memory, entry), key->id + PST_ID_HEAD, PST_ID_TAIL) == 0);
}

static void
set_key(PstEntries *memory, PstEntry *entry, const PstKey *key)
{
	entry->stats = key->stats;
	entry->kind = key->kind;
	entry->len = key->len;
	memcpy(entry->id, key->id, PST_ID_HEAD);
	if (key->len > PST_ID_HEAD)
		memcpy(tail_of(memory, entry), key->id + PST_ID_HEAD, PST_ID_TAIL);
}

static void
get_key(PstEntries *memory, const PstEntry *entry, PstKey *key)
{
	memset(key, 0, sizeof(*key));
	key->stats = entry->stats;
	key->kind = entry->kind;
	key->len = entry->len;
	memcpy(key->id, entry->id, PST_ID_HEAD);
	if (key->len > PST_ID_HEAD)
		memcpy(key->id + PST_ID_HEAD, tail_of(memory, entry), PST_ID_TAIL);
}

static PstEntry *
find_entry(PstEntries *memory, const PstKey *key, uint32 hash)
{
	uint32		number = memory == NULL ? PST_NONE : *bucket_of(memory, hash);

	while (number != PST_NONE)
	{
		PstEntry   *entry = &entries_of(memory)[number];

		if (is_entry_of(memory, entry, key))
			return entry;
		number = entry->next;
	}
	return NULL;
}

/* NULL where all are in use */
static PstEntry *
insert_entry(PstEntries *memory, const PstKey *key, uint32 hash)
{
	uint32		number = memory->free;
	PstEntry   *entry;

	if (number != PST_NONE)
		memory->free = entries_of(memory)[number].next;
	else if (memory->high < memory->size)
		number = memory->high++;
	else
		return NULL;

	memory->used++;
	entry = &entries_of(memory)[number];
	memset(entry, 0, sizeof(*entry));
	set_key(memory, entry, key);
	entry->next = *bucket_of(memory, hash);
	*bucket_of(memory, hash) = number;
	return entry;
}

static void
remove_entry(PstEntries *memory, PstEntry *entry)
{
	uint32		number = entry - entries_of(memory);
	PstKey		key;
	uint32	   *link;

	get_key(memory, entry, &key);
	link = bucket_of(memory, hash_key(&key));
	while (*link != number)
		link = &entries_of(memory)[*link].next;
	*link = entry->next;
	entry->stats = InvalidOid;
	entry->next = memory->free;
	memory->free = number;
	memory->used--;
}

/* ---- counting: reserve before, add at COMMIT ---- */

/* Under the lock of the partition; NULL where it can't take the delta */
static PstEntry *
reserve_entry(PstDatabase *db, PstPartition *partition, const PstKey *key, uint32 hash)
{
	PstEntries *memory = memory_of(partition);
	PstEntry   *entry;

	if (memory == NULL || !pst_is_flusher_ready(db) || partition->accepted > MAX_ACCEPTED)
		return NULL;
	entry = find_entry(memory, key, hash);
	if (entry == NULL)
		entry = insert_entry(memory, key, hash);
	if (is_crowded(memory))
		pg_atomic_write_u32(&db->crowded, 1);
	if (entry == NULL || pst_total(entry->pending) > MAX_SUM)
		return NULL;
	entry->reserved++;
	partition->reserved++;
	return entry;
}

static bool
reserve_delta(PstDatabase *db, const PstTables *tables, const PstDelta *delta,
			  PstOwnFold *why)
{
	PstHold    *hold = &reserved[nreserved];
	uint32		hash;

	*why = PST_OWN_TOO_LARGE;
	if (delta->n[PST_VIEWS] > MAX_N || delta->n[PST_COPIES] > MAX_N || delta->n[PST_FORKS] > MAX_N ||
		!make_key(&hold->key, tables->stats, tables->id_kind, delta->id))
		return false;

	*why = PST_OWN_NO_MEMORY;
	hash = hash_key(&hold->key);
	hold->partition = partition_of(db, hash);
	if (!ensure_memory(hold->partition))
		return false;
	memcpy(hold->n, delta->n, sizeof(hold->n));
	LWLockAcquire(&hold->partition->lock, LW_EXCLUSIVE);
	hold->entry = reserve_entry(db, hold->partition, &hold->key, hash);
	LWLockRelease(&hold->partition->lock);
	if (hold->entry != NULL)
		nreserved++;
	return hold->entry != NULL;
}

static void
ensure_reserved(int size)
{
	if (reserved == NULL)
		reserved = MemoryContextAlloc(TopMemoryContext, size * sizeof(PstHold));
	else if (size > size_reserved)
		reserved = repalloc(reserved, size * sizeof(PstHold));
	else
		return;
	size_reserved = size;
}

/*
 * All or none; without any, the caller is to fold its own.  What is reserved ends with
 * the transaction.
 */
bool
pst_reserve(PstDatabase *db, const PstTables *tables, const PstDeltas *deltas,
			PstOwnFold *why)
{
	*why = PST_OWN_COLLATION;
	if (tables->has_aliases)
		return false;			/* entries are found by their bytes */
	*why = PST_OWN_TOO_LARGE;
	if (deltas->len > MAX_RESERVED)
		return false;
	if (!pst_is_flusher_alive(db))
	{
		*why = PST_OWN_NO_FLUSHER;
		pst_start_flusher(db);
		return false;
	}
	ensure_reserved(deltas->len);
	if (pg_atomic_read_u32(&db->stats) != tables->stats)
		pg_atomic_write_u32(&db->stats, tables->stats);
	for (int i = 0; i < deltas->len; i++)
	{
		if (reserve_delta(db, tables, &deltas->items[i], why))
			continue;
		pst_end_reserved(false);
		return false;
	}
	if (pg_atomic_read_u32(&db->crowded) == 1)
		pst_wake_flusher(db);
	return true;
}

/* Under the lock of the partition: the flusher is to look at it */
static void
list_entry(PstPartition *partition, PstEntry *entry)
{
	if (entry->is_due)
		return;
	entry->is_due = true;
	entry->next_due = partition->due;
	partition->due = entry - entries_of(memory_of(partition));
}

/* In the callbacks at the end of a transaction: must not fail */
void
pst_end_reserved(bool publish)
{
	for (int i = 0; i < nreserved; i++)
	{
		PstHold    *hold = &reserved[i];

		LWLockAcquire(&hold->partition->lock, LW_EXCLUSIVE);
		hold->entry->reserved--;
		hold->partition->reserved--;
		if (publish)
		{
			if (pst_is_zero(hold->entry->pending))
				hold->entry->since = GetCurrentTransactionStopTimestamp();
			add(hold->entry->pending, hold->n);
			list_entry(hold->partition, hold->entry);
			hold->partition->accepted += pst_total(hold->n);
		}
		LWLockRelease(&hold->partition->lock);
	}
	nreserved = 0;
}

/* ---- flushing: by the flusher alone ---- */

/*
 * Entries with pending counts are in a list of their partition, each once: whoever makes
 * it due links it.  A cycle takes the lists of that moment, so that it comes to an end.
 */

/* For a new flusher, since one that died may have had some in its hands */
void
pst_list_due(PstDatabase *db)
{
	for (int p = 0; p < PST_PARTITIONS; p++)
	{
		PstPartition *partition = &db->partitions[p];
		PstEntries *memory;

		LWLockAcquire(&partition->lock, LW_EXCLUSIVE);
		memory = memory_of(partition);
		partition->due = PST_NONE;
		for (uint32 i = 0; memory != NULL && i < memory->high; i++)
		{
			PstEntry   *entry = &entries_of(memory)[i];

			entry->is_due = false;
			if (OidIsValid(entry->stats) && !pst_is_zero(entry->pending))
				list_entry(partition, entry);
		}
		LWLockRelease(&partition->lock);
	}
}

void
pst_begin_cycle(PstDatabase *db, PstCycle *cycle)
{
	cycle->claims_begun = pg_atomic_read_u32(&db->claims_begun);
	pg_memory_barrier();
	cycle->claimed = pg_atomic_read_u32(&db->claims) > 0;
	pg_memory_barrier();
	for (int p = 0; p < PST_PARTITIONS; p++)
	{
		PstPartition *partition = &db->partitions[p];

		LWLockAcquire(&partition->lock, LW_EXCLUSIVE);
		cycle->todo[p] = partition->due;
		cycle->others[p] = PST_NONE;
		partition->due = PST_NONE;
		LWLockRelease(&partition->lock);
	}
}

/* A correction had something in the air meanwhile, which may have been turned back */
bool
pst_was_claimed(PstDatabase *db, const PstCycle *cycle)
{
	pg_memory_barrier();
	return cycle->claimed || pg_atomic_read_u32(&db->claims_begun) != cycle->claims_begun;
}

/* Those who count need the lock, too, many times a millisecond */
static void
let_others(PstPartition *partition, uint32 i)
{
	if (i % 32 != 31)
		return;
	LWLockRelease(&partition->lock);
	LWLockAcquire(&partition->lock, LW_EXCLUSIVE);
}

static void
fill_hold(PstHold *hold, PstPartition *partition, PstEntries *memory, PstEntry *entry)
{
	memset(hold, 0, sizeof(*hold));
	hold->partition = partition;
	hold->entry = entry;
	get_key(memory, entry, &hold->key);
	memcpy(hold->n, entry->pending, sizeof(hold->n));
	if (entry->has_history)
		hold->tries = history_of(memory, entry)->tries;
}

/* All of one table */
static int
gather_from(PstPartition *partition, uint32 *todo, uint32 *others, PstHold *holds, int n, int max)
{
	PstEntries *memory = memory_of(partition);

	while (*todo != PST_NONE && n < max)
	{
		uint32		number = *todo;
		PstEntry   *entry = &entries_of(memory)[number];

		let_others(partition, n);
		*todo = entry->next_due;
		if (n > 0 && entry->stats != holds[0].key.stats)
		{
			entry->next_due = *others;
			*others = number;
			continue;
		}
		entry->is_due = false;
		if (pst_is_zero(entry->pending))
			continue;			/* the last cycle has taken what came during
								 * it */
		if (entry->in_air)
		{
			list_entry(partition, entry);	/* a correction's: next time */
			continue;
		}
		fill_hold(&holds[n++], partition, memory, entry);
	}
	return n;
}

/* The next of the cycle, of one table; 0 where it is over */
int
pst_gather(PstDatabase *db, PstCycle *cycle, PstHold *holds, int max)
{
	int			n = 0;

	for (int pass = 0; pass < 2 && n == 0; pass++)
	{
		for (int p = 0; p < PST_PARTITIONS && n < max; p++)
		{
			if (cycle->todo[p] == PST_NONE)
				continue;
			LWLockAcquire(&db->partitions[p].lock, LW_EXCLUSIVE);
			n = gather_from(&db->partitions[p], &cycle->todo[p], &cycle->others[p], holds, n, max);
			LWLockRelease(&db->partitions[p].lock);
		}
		if (n > 0)
			break;
		memcpy(cycle->todo, cycle->others, sizeof(cycle->todo));
		memset(cycle->others, 0xff, sizeof(cycle->others)); /* PST_NONE */
	}
	return n;
}

/* Few holds come in the order of their partitions: so each lock is taken once for many */
static void
switch_lock(PstPartition **held, PstPartition *wanted)
{
	if (*held == wanted)
		return;
	if (*held != NULL)
		LWLockRelease(&(*held)->lock);
	if (wanted != NULL)
		LWLockAcquire(&wanted->lock, LW_EXCLUSIVE);
	*held = wanted;
}

/* Those that were not folded are for the next cycle */
void
pst_list_again(PstHold *holds, int n)
{
	PstPartition *held = NULL;

	for (int i = 0; i < n; i++)
	{
		switch_lock(&held, holds[i].partition);
		if (!pst_is_zero(holds[i].entry->pending))
			list_entry(held, holds[i].entry);
	}
	switch_lock(&held, NULL);
}

/* The place for one more */
static PstFlight *
next_flight(PstPartition *partition, PstEntry *entry)
{
	PstHistory *history = history_of(memory_of(partition), entry);

	if (!entry->has_history)
	{
		entry->has_history = true;
		history->dropped = partition->evicted;
		history->tries = no_tries;
	}
	if (entry->nflights == PST_FLIGHTS)
	{
		history->dropped = history->flights[0].xid;
		memmove(&history->flights[0], &history->flights[1], (PST_FLIGHTS - 1) * sizeof(PstFlight));
		entry->nflights--;
	}
	return &history->flights[entry->nflights++];
}

/* Under the lock of the partition; the entry has been in the air */
static void
set_tries(PstHold *hold, PstTries tries)
{
	hold->tries = tries;
	if (hold->entry->has_history)
		history_of(memory_of(hold->partition), hold->entry)->tries = tries;
}

/* Under the lock of the partition */
static void
take_off(PstHold *hold, FullTransactionId xid)
{
	PstEntry   *entry = hold->entry;
	PstFlight  *flight = next_flight(hold->partition, entry);

	flight->xid = xid;
	memcpy(flight->n, entry->pending, sizeof(flight->n));
	memcpy(hold->n, entry->pending, sizeof(hold->n));
	memset(entry->pending, 0, sizeof(entry->pending));
	hold->since = entry->since;
	entry->in_air = true;
	hold->in_air = true;
}

static FullTransactionId
later_xid(FullTransactionId a, FullTransactionId b)
{
	return FullTransactionIdPrecedes(a, b) ? b : a;
}

static bool
is_idle(const PstEntry *entry)
{
	return entry->reserved == 0 && !entry->in_air && !entry->is_due && !entry->claimed &&
		pst_is_zero(entry->pending);
}

/* Under the lock of the partition; must not fail */
static void
evict(PstPartition *partition, PstEntry *entry)
{
	PstEntries *memory = memory_of(partition);
	PstHistory *history = history_of(memory, entry);

	if (entry->has_history)
		partition->evicted = later_xid(partition->evicted, history->dropped);
	if (entry->nflights > 0)
		partition->evicted = later_xid(partition->evicted, history->flights[entry->nflights - 1].xid);
	remove_entry(memory, entry);
}

/* What is pending becomes flights of the transaction that folds it, but what a correction has taken */
void
pst_take_off(PstHold *holds, int n, FullTransactionId xid)
{
	PstPartition *held = NULL;

	for (int i = 0; i < n; i++)
	{
		switch_lock(&held, holds[i].partition);
		let_others(held, i);
		holds[i].in_air = false;
		if (!holds[i].entry->in_air && !pst_is_zero(holds[i].entry->pending))
			take_off(&holds[i], xid);
	}
	switch_lock(&held, NULL);
}

/*
 * What is in the air is folded, durable and visible.  Entries that nobody needs go at once:
 * less memory is faster.  In a callback: must not fail.
 */
void
pst_land(PstHold *holds, int n)
{
	PstPartition *held = NULL;

	for (int i = 0; i < n; i++)
	{
		if (!holds[i].in_air)
			continue;
		switch_lock(&held, holds[i].partition);
		let_others(held, i);
		holds[i].entry->in_air = false;
		holds[i].in_air = false;
		set_tries(&holds[i], no_tries);
		held->flushed += pst_total(holds[i].n);
		if (is_idle(holds[i].entry))
			evict(held, holds[i].entry);
	}
	switch_lock(&held, NULL);
}

static uint8
raise_tries(uint8 tries, uint8 more)
{
	return Min(tries + more, PG_UINT8_MAX);
}

/*
 * It is not folded, and pending again; not listed yet.  "more" is added to its tries, here
 * where also the end of the flusher comes by.  In a callback: must not fail.
 */
void
pst_turn_back(PstHold *hold, PstTries more)
{
	PstTries	tries = {raise_tries(hold->tries.failed, more.failed), raise_tries(hold->tries.ended, more.ended)};

	LWLockAcquire(&hold->partition->lock, LW_EXCLUSIVE);
	add(hold->entry->pending, hold->n);
	hold->entry->since = hold->since;
	hold->entry->nflights--;
	hold->entry->in_air = false;
	hold->in_air = false;
	set_tries(hold, tries);
	LWLockRelease(&hold->partition->lock);
}

/* A correction may have taken it meanwhile */
static bool
still_pends(const PstHold *hold)
{
	for (int c = 0; c < PST_NCOUNTERS; c++)
		if (hold->entry->pending[c] < hold->n[c])
			return false;
	return !hold->entry->in_air && !pst_is_zero(hold->n);
}

/*
 * Pending counts that can't be folded; those that came since begin with "left" tries.  False
 * where they are not pending any more.
 */
bool
pst_reject(PstDatabase *db, PstHold *hold, PstTries left, const char *reason)
{
	bool		pends;

	LWLockAcquire(&hold->partition->lock, LW_EXCLUSIVE);
	pends = still_pends(hold);
	for (int c = 0; pends && c < PST_NCOUNTERS; c++)
		hold->entry->pending[c] -= hold->n[c];
	if (pends)
	{
		hold->partition->rejected += pst_total(hold->n);
		set_tries(hold, left);
	}
	LWLockRelease(&hold->partition->lock);
	if (!pends)
		return false;

	LWLockAcquire(&db->partitions[0].lock, LW_EXCLUSIVE);
	pst_copy_text(db->reason, reason, sizeof(db->reason));
	db->rejected_at = GetCurrentTimestamp();
	db->rejected_stats = hold->key.stats;
	LWLockRelease(&db->partitions[0].lock);
	return true;
}

/* ---- corrections: by the owner of the table, in transactions of his ---- */

/*
 * Claims are flights, too, of the transaction that corrects.  Only an entry's last flight is in
 * the air, and it is of the flusher, or of one such transaction, which may add to it.
 *
 * The XIDs of an entry's flights need not grow then, but each began when the one before had
 * landed.  For all entries that does not hold, so that an entry with a claim is not evicted
 * before every snapshot sees its flights.
 */

static PstFlight *
last_flight(PstPartition *partition, const PstEntry *entry)
{
	return &history_of(memory_of(partition), entry)->flights[entry->nflights - 1];
}

/* Under the lock of the partition */
static void
claim_entry(PstDatabase *db, PstHold *hold, FullTransactionId xid)
{
	PstEntry   *entry = hold->entry;

	if (entry->in_air)
	{
		add(last_flight(hold->partition, entry)->n, entry->pending);
		memcpy(hold->n, entry->pending, sizeof(hold->n));
		memset(entry->pending, 0, sizeof(entry->pending));
		hold->since = entry->since;
		return;
	}
	pg_atomic_fetch_add_u32(&db->claims_begun, 1);
	pg_atomic_fetch_add_u32(&db->claims, 1);
	take_off(hold, xid);
	entry->claimed = true;
}

/*
 * What is pending of a prompt becomes a flight of our transaction; hold->entry is NULL where
 * nothing is.  Returns the transaction that has the prompt in the air, if another has.
 */
TransactionId
pst_claim(PstDatabase *db, const PstTables *tables, Datum id, PstHold *hold)
{
	FullTransactionId xid = GetTopFullTransactionId();
	FullTransactionId holder = xid;
	PstEntry   *entry;
	uint32		hash;

	memset(hold, 0, sizeof(*hold));
	if (!make_key(&hold->key, tables->stats, tables->id_kind, id))
		return InvalidTransactionId;
	hash = hash_key(&hold->key);
	hold->partition = partition_of(db, hash);
	LWLockAcquire(&hold->partition->lock, LW_EXCLUSIVE);
	entry = find_entry(memory_of(hold->partition), &hold->key, hash);
	if (entry != NULL && entry->in_air)
		holder = last_flight(hold->partition, entry)->xid;
	if (entry != NULL && FullTransactionIdEquals(holder, xid) && !pst_is_zero(entry->pending))
	{
		hold->entry = entry;
		claim_entry(db, hold, xid);
	}
	LWLockRelease(&hold->partition->lock);
	return FullTransactionIdEquals(holder, xid) ? InvalidTransactionId : XidFromFullTransactionId(holder);
}

/*
 * All that its transaction claimed of the prompt is in the table, or dropped: at once, by the
 * first claim.  The flusher may have its entry in its hands, so that it stays.  Must not fail.
 */
void
pst_land_claim(PstDatabase *db, PstHold *hold)
{
	if (!hold->in_air)
		return;					/* the first claim has landed all */
	LWLockAcquire(&hold->partition->lock, LW_EXCLUSIVE);
	hold->entry->in_air = false;
	hold->in_air = false;
	set_tries(hold, no_tries);
	hold->partition->flushed += pst_total(last_flight(hold->partition, hold->entry)->n);
	LWLockRelease(&hold->partition->lock);
	pg_atomic_fetch_sub_u32(&db->claims, 1);
}

/* It is pending again, and due.  The last claim comes first.  Must not fail. */
void
pst_return_claim(PstDatabase *db, PstHold *hold)
{
	bool		last = hold->in_air;

	LWLockAcquire(&hold->partition->lock, LW_EXCLUSIVE);
	add(hold->entry->pending, hold->n);
	hold->entry->since = hold->since;
	for (int c = 0; !last && c < PST_NCOUNTERS; c++)
		last_flight(hold->partition, hold->entry)->n[c] -= hold->n[c];
	if (last)
	{
		hold->entry->nflights--;
		hold->entry->in_air = false;
		hold->in_air = false;
	}
	list_entry(hold->partition, hold->entry);
	LWLockRelease(&hold->partition->lock);
	if (last)
		pg_atomic_fetch_sub_u32(&db->claims, 1);
}

/* XIDs are compared by their lower half, so what is long past is forgotten */
static void
forget_old_xid(FullTransactionId *xid, FullTransactionId next)
{
	if (U64FromFullTransactionId(*xid) + (MaxTransactionId / 4) < U64FromFullTransactionId(next))
		*xid = InvalidFullTransactionId;
}

static bool
is_seen_by_all(FullTransactionId xid, TransactionId horizon)
{
	return !FullTransactionIdIsValid(xid) || TransactionIdPrecedes(XidFromFullTransactionId(xid), horizon);
}

/* Under the lock of the partition: no reader asks for its flights any more */
static void
forget_claims(PstEntries *memory, PstEntry *entry, TransactionId horizon)
{
	PstHistory *history = history_of(memory, entry);

	if (!entry->claimed || entry->in_air || !is_seen_by_all(history->dropped, horizon))
		return;
	for (int i = 0; i < entry->nflights; i++)
		if (!is_seen_by_all(history->flights[i].xid, horizon))
			return;
	entry->claimed = false;
}

static void
evict_idle(PstPartition *partition, PstEntries *memory, FullTransactionId next, TransactionId horizon)
{
	for (uint32 i = 0; i < memory->high; i++)
	{
		PstEntry   *entry = &entries_of(memory)[i];

		let_others(partition, i);
		if (entry->has_history)
			forget_old_xid(&history_of(memory, entry)->dropped, next);
		forget_claims(memory, entry, horizon);
		if (OidIsValid(entry->stats) && is_idle(entry))
			evict(partition, entry);
	}
}

static void
tidy_partition(PstPartition *partition, bool all, bool release, FullTransactionId next, TransactionId horizon)
{
	dsa_pointer unused = InvalidDsaPointer;
	PstEntries *memory;

	LWLockAcquire(&partition->lock, LW_EXCLUSIVE);
	memory = memory_of(partition);
	forget_old_xid(&partition->evicted, next);
	if (memory != NULL && (all || is_crowded(memory)))
	{
		evict_idle(partition, memory, next, horizon);
		if (memory->used == 0 && (release || memory->size != configured_size()))
		{
			unused = partition->memory;
			partition->memory = InvalidDsaPointer;
		}
		else if (memory->used == 0)
		{
			memory->high = 0;
			memory->free = PST_NONE;
		}
	}
	LWLockRelease(&partition->lock);
	if (DsaPointerIsValid(unused))
		dsa_free(pst_area, unused);
}

/*
 * Removes entries that are not needed any more, now and then, or where memory is short;
 * "release": their memory, too
 */
void
pst_tidy_partitions(PstDatabase *db, bool release)
{
	static TimestampTz last = 0;
	TimestampTz now = GetCurrentTimestamp();
	FullTransactionId next = ReadNextFullTransactionId();
	TransactionId horizon = GetOldestNonRemovableTransactionId(NULL);
	bool		all = release || now < last || TimestampDifferenceExceeds(last, now, TIDY_MS);

	if (all)
		last = now;

	for (int p = 0; p < PST_PARTITIONS; p++)
		if (DsaPointerIsValid(db->partitions[p].memory))
			tidy_partition(&db->partitions[p], all, release, next, horizon);
}

/* ---- all partitions ---- */

void
pst_init_partitions(PstDatabase *db, int tranche)
{
	for (int p = 0; p < PST_PARTITIONS; p++)
	{
		LWLockInitialize(&db->partitions[p].lock, tranche);
		db->partitions[p].memory = InvalidDsaPointer;
		db->partitions[p].due = PST_NONE;
	}
}

/* Of a database that is gone; its ledger begins anew */
void
pst_clear_partitions(PstDatabase *db)
{
	for (int p = 0; p < PST_PARTITIONS; p++)
	{
		PstPartition *partition = &db->partitions[p];
		PstEntries *memory;

		LWLockAcquire(&partition->lock, LW_EXCLUSIVE);
		memory = memory_of(partition);
		if (memory != NULL)
			init_memory(memory, memory->size);
		partition->due = PST_NONE;
		partition->reserved = 0;
		partition->accepted = partition->flushed = partition->rejected = 0;
		partition->evicted = InvalidFullTransactionId;
		LWLockRelease(&partition->lock);
	}
}

void
pst_lock_partitions(PstDatabase *db, LWLockMode mode)
{
	for (int p = 0; p < PST_PARTITIONS; p++)
		LWLockAcquire(&db->partitions[p].lock, mode);
}

void
pst_unlock_partitions(PstDatabase *db)
{
	for (int p = PST_PARTITIONS - 1; p >= 0; p--)
		LWLockRelease(&db->partitions[p].lock);
}

/* Nothing pending, nothing reserved; exact under the locks, a hint without */
bool
pst_is_empty(PstDatabase *db)
{
	for (int p = 0; p < PST_PARTITIONS; p++)
	{
		PstPartition *partition = &db->partitions[p];

		if (partition->reserved > 0 ||
			partition->accepted != partition->flushed + partition->rejected)
			return false;
	}
	return true;
}

/*
 * Handed over and folded by a group: at once, for its transactions waited.  A ledger that
 * has no room for more keeps its balance.
 */
void
pst_add_grouped(PstDatabase *db, int64 n)
{
	LWLockAcquire(&db->partitions[0].lock, LW_EXCLUSIVE);
	n = Min(n, MAX_SUM - db->partitions[0].accepted);
	db->partitions[0].accepted += n;
	db->partitions[0].flushed += n;
	LWLockRelease(&db->partitions[0].lock);
}

/* What the entries hold is summed up, not derived from the rest of the ledger */
static void
add_entries(PstEntries *memory, PstLedger *ledger)
{
	ledger->entries += memory->used;
	ledger->max_entries += memory->size;
	for (uint32 i = 0; i < memory->high; i++)
	{
		PstEntry   *entry = &entries_of(memory)[i];
		int64		n = pst_total(entry->pending);

		if (!OidIsValid(entry->stats))
			continue;
		if (entry->in_air)
			n += pst_total(history_of(memory, entry)->flights[entry->nflights - 1].n);
		ledger->pending += n;
		if (n > 0 && (ledger->oldest == 0 || entry->since < ledger->oldest))
			ledger->oldest = entry->since;
	}
}

void
pst_read_ledger(PstDatabase *db, PstLedger *ledger)
{
	memset(ledger, 0, sizeof(*ledger));
	pst_lock_partitions(db, LW_SHARED);
	for (int p = 0; p < PST_PARTITIONS; p++)
	{
		PstPartition *partition = &db->partitions[p];
		PstEntries *memory = memory_of(partition);

		ledger->accepted += partition->accepted;
		ledger->flushed += partition->flushed;
		ledger->rejected += partition->rejected;
		if (memory != NULL)
			add_entries(memory, ledger);
	}
	pst_unlock_partitions(db);
}

/* ---- reading ---- */

static bool
is_unseen(FullTransactionId xid, Snapshot snapshot)
{
	return FullTransactionIdIsValid(xid) && XidInMVCCSnapshot(XidFromFullTransactionId(xid), snapshot);
}

/* A copy of an entry */
typedef struct Reading
{
	PstKey		key;
	int64		pending[PST_NCOUNTERS];
	int			nflights;
	PstHistory	history;
} Reading;

/* Under the lock of the partition */
static void
read_entry(PstPartition *partition, PstEntries *memory, const PstEntry *entry, Reading *reading)
{
	get_key(memory, entry, &reading->key);
	memcpy(reading->pending, entry->pending, sizeof(reading->pending));
	reading->nflights = entry->nflights;
	reading->history = *history_of(memory, entry);
	if (!entry->has_history)
		reading->history.dropped = partition->evicted;
}

/* What the table doesn't show to this snapshot.  False where that is not known. */
static bool
sum_unseen(const Reading *reading, Snapshot snapshot, int64 *n)
{
	memset(n, 0, PST_NCOUNTERS * sizeof(int64));
	if (is_unseen(reading->history.dropped, snapshot))
		return false;
	add(n, reading->pending);
	for (int i = 0; i < reading->nflights; i++)
	{
		const PstFlight *flight = &reading->history.flights[i];

		if (TransactionIdIsCurrentTransactionId(XidFromFullTransactionId(flight->xid)))
			pst_add_unseen_claims(&reading->key, snapshot, n);
		else if (is_unseen(flight->xid, snapshot) || !TransactionIdDidCommit(XidFromFullTransactionId(flight->xid)))
			add(n, flight->n);
	}
	return true;
}

/* False where the snapshot is too old to tell */
bool
pst_read_one_pending(PstDatabase *db, const PstTables *tables, Datum id,
					 Snapshot snapshot, int64 *n)
{
	PstKey		key;
	PstEntries *memory;
	PstEntry   *entry;
	Reading		reading;
	PstPartition *partition;
	FullTransactionId evicted;
	uint32		hash;

	memset(n, 0, PST_NCOUNTERS * sizeof(int64));
	if (!make_key(&key, tables->stats, tables->id_kind, id))
		return true;
	hash = hash_key(&key);
	partition = partition_of(db, hash);
	LWLockAcquire(&partition->lock, LW_SHARED);
	memory = memory_of(partition);
	entry = find_entry(memory, &key, hash);
	if (entry != NULL)
		read_entry(partition, memory, entry, &reading);
	evicted = partition->evicted;
	LWLockRelease(&partition->lock);
	return entry != NULL ? sum_unseen(&reading, snapshot, n) : !is_unseen(evicted, snapshot);
}

/*
 * Those of the table, as far as there is room; returns how many there are, and the
 * newest flight that went with an entry
 */
static uint32
read_entries(PstDatabase *db, Oid stats, Reading *readings, uint32 max, FullTransactionId *evicted)
{
	uint32		n = 0;

	*evicted = InvalidFullTransactionId;
	pst_lock_partitions(db, LW_SHARED);
	for (int p = 0; p < PST_PARTITIONS; p++)
	{
		PstEntries *memory = memory_of(&db->partitions[p]);

		*evicted = later_xid(*evicted, db->partitions[p].evicted);
		for (uint32 i = 0; memory != NULL && i < memory->high; i++)
		{
			PstEntry   *entry = &entries_of(memory)[i];

			if (entry->stats != stats || (entry->nflights == 0 && pst_is_zero(entry->pending)))
				continue;
			if (n < max)
				read_entry(&db->partitions[p], memory, entry, &readings[n]);
			n++;
		}
	}
	pst_unlock_partitions(db);
	return n;
}

/* All of the table, under the locks of all partitions */
static Reading *
read_all_entries(PstDatabase *db, Oid stats, uint32 *n, FullTransactionId *evicted)
{
	uint32		max = 64;
	Reading    *readings = palloc(max * sizeof(Reading));

	while ((*n = read_entries(db, stats, readings, max, evicted)) > max)
	{
		pfree(readings);
		max = *n + *n / 4;
		readings = MemoryContextAllocHuge(CurrentMemoryContext, max * sizeof(Reading));
	}
	return readings;
}

/*
 * The pending counts of one instant, as a merged set.  False where the snapshot is too
 * old to tell.
 */
bool
pst_read_pending(PstDatabase *db, const PstTables *tables, Snapshot snapshot, PstDeltas *deltas)
{
	uint32		n;
	FullTransactionId evicted;
	Reading    *readings = read_all_entries(db, tables->stats, &n, &evicted);
	bool		known = !is_unseen(evicted, snapshot);

	pst_init_deltas(deltas, tables, n);
	for (uint32 i = 0; known && i < n; i++)
	{
		PstKey	   *key = &readings[i].key;

		if (key->kind == tables->id_kind)
			known = sum_unseen(&readings[i], snapshot,
							   pst_add_delta(deltas, pst_id_from_bytes(key->id, key->len, key->kind),
											 PST_VIEWS, 0)->n);
	}
	pfree(readings);
	pst_merge_deltas(deltas);
	return known;
}
