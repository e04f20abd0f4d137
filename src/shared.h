/*
 * shared.h
 *		What lies in shared memory: see shmem.c for how it is found, group.c for the
 *		slots, pending.c for the partitions.
 *
 * Locks, and their order:
 *
 *	PstAnchor.lock			creating the area, and who gets a PstDatabase
 *	PstPartition.lock		all else of the partition and of its entries; several of
 *							them only in the order of their numbers
 *
 * No lock of the server's is taken under one of these, nothing is allocated, and
 * nothing is waited for.  Slots, and what is called pg_atomic, have no lock.
 */
#ifndef PST_SHARED_H
#define PST_SHARED_H

#include "access/transam.h"
#include "port/atomics.h"
#include "portability/instr_time.h"
#include "storage/condition_variable.h"
#include "storage/lwlock.h"
#include "utils/dsa.h"
#include "utils/snapshot.h"
#include "utils/timestamp.h"

#define PST_NONE			PG_UINT32_MAX
#define PST_MAX_DATABASES	64
#define PST_PARTITIONS		16

/* ---- group: a place in the queue for each backend ---- */

/* Of PstSlot.state */
typedef enum PstSlotState
{
	PST_FREE,					/* not linked; its backend may use it */
	PST_QUEUED,					/* linked; its backend waits */
	PST_WITHDRAWN,				/* linked; its backend has gone on */
	PST_TAKEN,					/* by the flusher, which will tell the outcome */
	PST_COMMITTING,				/* the same, and its commit is under way */
	PST_DISOWNED,				/* the same, but its backend has failed: what
								 * is folded is to be taken back */
	PST_FOLDED,					/* committed, durable and visible */
	PST_RETURNED				/* not folded: its backend folds it itself */
} PstSlotState;

/* Room for two deltas with uuids; more go to the DSA area */
#define PST_INLINE_BYTES 96

/* A transaction that counted more than this folds its own: others need not wait for it */
#define PST_UNIT_BYTES (64 * 1024)

/* One transaction's deltas, a unit */
typedef struct PstSlot
{
	pg_atomic_uint32 state;

	/* Written by whoever links the slot, before that; read by the flusher */
	uint32		next;			/* in the queue */
	uint32		ndeltas;
	int			kind;			/* PstIdKind of the deltas */
	Oid			stats;			/* the table that the backend means */
	bool		durable;		/* the backend's synchronous_commit is not off */
	int			orphan;			/* takes a fold back: how often yet to be
								 * tried */
	TimestampTz since;			/* when it was queued; 0 until first carried
								 * over */

	/* Written by the flusher before FOLDED */
	XLogRecPtr	lsn;			/* end of the commit that folded it */

	/* Of the slot's backend alone */
	dsa_pointer big;			/* the deltas, where they are not inline */

	char		data[PST_INLINE_BYTES];
} PstSlot;

/* ---- async: a table of pending sums ---- */

/* Longer ids are folded by their callers */
#define PST_ID_BYTES	52

/* So much of an id is in its entry: the whole, but for long texts */
#define PST_ID_HEAD		16
#define PST_ID_TAIL		(PST_ID_BYTES - PST_ID_HEAD)

/* Sums of a prompt that were folded lately; see pending.c */
#define PST_FLIGHTS		2

/* Unused bytes are 0 */
typedef struct PstKey
{
	Oid			stats;			/* the table */
	uint16		kind;			/* PstIdKind */
	uint16		len;
	char		id[PST_ID_BYTES];
} PstKey;

typedef struct PstFlight
{
	FullTransactionId xid;		/* the transaction that folds it: the
								 * flusher's, or of a claim */
	int64		n[PST_NCOUNTERS];
} PstFlight;

/* How often it could not be folded, though nothing but itself may have been in the way */
typedef struct PstTries
{
	uint8		failed;			/* its transaction, when it was alone there */
	uint8		ended;			/* its transaction, or the flusher, by force */
} PstTries;

/*
 * A prompt: what those who count touch, which is one line of the cache.  All under the
 * lock of its partition.
 */
#define PST_ENTRY_SIZE	64

typedef struct PstEntry
{
	Oid			stats;			/* the table; InvalidOid where unused */
	uint32		next;			/* in its bucket, or of those that are free */
	uint32		next_due;
	uint32		kind:2;			/* PstIdKind */
	uint32		len:6;			/* of the id */
	uint32		nflights:2;		/* in its history, the oldest first */
	uint32		has_history:1;
	uint32		is_due:1;		/* in a list of those that have pending counts */
	uint32		in_air:1;		/* the last flight has not landed */
	uint32		claimed:1;		/* a flight is of another than the flusher */
	uint32		reserved:18;	/* transactions that are about to add to it;
								 * holds MAX_BACKENDS */
	TimestampTz since;			/* of the oldest pending count */
	int64		pending[PST_NCOUNTERS];
	char		id[PST_ID_HEAD];
} PstEntry;

StaticAssertDecl(PST_ID_BYTES < (1 << 6), "the length of an id is to fit its bits");
StaticAssertDecl(PST_TEXT < (1 << 2), "the kind of an id is to fit its bits");
StaticAssertDecl(PST_FLIGHTS < (1 << 2), "the number of flights is to fit its bits");
StaticAssertDecl(sizeof(PstEntry) == PST_ENTRY_SIZE, "an entry is to fill a line of the cache");

/* The rest of it, elsewhere: for the flusher and for readers */
typedef struct PstHistory
{
	/* Where the entry has_history */
	FullTransactionId dropped;	/* the newest flight that is forgotten, or
								 * invalid */
	PstFlight	flights[PST_FLIGHTS];
	PstTries	tries;

	/* Where the id is longer than PST_ID_HEAD */
	char		id_tail[PST_ID_TAIL];
} PstHistory;

/* The memory of a partition; all under its lock */
typedef struct PstEntries
{
	uint32		nbuckets;		/* a power of 2 */
	uint32		size;			/* entries there is room for */
	uint32		used;
	uint32		high;			/* entries from here on were never used */
	uint32		free;			/* the first of those that were given back */
	uint32		buckets[FLEXIBLE_ARRAY_MEMBER]; /* then follow the entries,
												 * then their histories */
} PstEntries;

/* In lines of the cache of its own */
typedef struct PstPartition
{
	LWLock		lock pg_attribute_aligned(PG_CACHE_LINE_SIZE);

	/* Under lock */
	dsa_pointer memory;			/* PstEntries, or invalid until needed */
	uint32		due;			/* the first entry that has pending counts */
	uint32		reserved;		/* the sum over its entries */
	FullTransactionId evicted;	/* the newest flight that went with an entry */

	/*
	 * The ledger, in counts: accepted = flushed + rejected + what the entries
	 * hold
	 */
	int64		accepted;
	int64		flushed;
	int64		rejected;
} PstPartition;

/* ---- a database ---- */

/* Of PstDatabase.flusher */
typedef enum PstFlusherState
{
	PST_NO_FLUSHER,
	PST_FLUSHER_STARTING,
	PST_FLUSHER_READY,
	PST_FLUSHER_LEAVING			/* it flushes what there is, and takes no more */
} PstFlusherState;

/* Of PstDatabase.flusher_idle: who is to wake it */
typedef enum PstFlusherSleep
{
	PST_AWAKE,
	PST_AWAITS_WORK,
	PST_AWAITS_SOLOIST
} PstFlusherSleep;

#define PST_REASON_LEN 256

/*
 * Milliseconds: a flusher that gave no sign of life for so long is not relied upon.  No
 * transaction of it that heeds interrupts takes as long (flusher.h).
 */
#ifndef PST_SILENT_MS
#define PST_SILENT_MS 20000
#endif

typedef struct PstDatabase
{
	Oid			oid;			/* under PstAnchor.lock; InvalidOid: unused */
	TimestampTz since;			/* of its ledger; written with oid */

	/* The queue of waiting transactions */
	pg_atomic_uint32 head;		/* the last that came */
	pg_atomic_uint32 soloist;	/* whoever folds, another number each time; or
								 * 0 */
	pg_atomic_uint64 company_at;	/* when several were last folded together */

	/* The flusher; READY changes to NO_FLUSHER under all partition locks */
	pg_atomic_uint32 flusher;	/* PstFlusherState */
	pg_atomic_uint32 flusher_proc;	/* its number in ProcGlobal->allProcs */
	pg_atomic_uint32 flusher_idle;	/* PstFlusherSleep */
	pg_atomic_uint64 started_at;	/* when one was last started */
	pg_atomic_uint32 crowded;	/* 1: a partition fills up, flush now */
	pg_atomic_uint32 stats;		/* the table that was counted in last */
	pg_atomic_uint32 folding;	/* the table that it writes into now, or
								 * InvalidOid */
	pg_atomic_uint64 heartbeat; /* its last sign of life, by pst_clock_ms() */
	pg_atomic_uint64 silence_told;	/* the heartbeat whose silence is in the
									 * log */

	/* What corrections have in the air: correct.c */
	pg_atomic_uint32 claims;	/* now */
	pg_atomic_uint32 claims_begun;

	/* prompt_stats_flush() */
	pg_atomic_uint64 flushes_wanted;
	pg_atomic_uint64 flushes_done;
	pg_atomic_uint64 flushes_failed;	/* for the table itself */
	ConditionVariable flushed;

	/* Statistics */
	pg_atomic_uint64 own[PST_NOWN]; /* counts that callers folded, by
									 * PstOwnFold */
	pg_atomic_uint64 groups;
	pg_atomic_uint64 grouped;	/* transactions */
	pg_atomic_uint64 largest_group;
	pg_atomic_uint64 flushes;

	/* Under the lock of partition 0 */
	TimestampTz rejected_at;
	Oid			rejected_stats; /* the table that was meant */
	char		reason[PST_REASON_LEN]; /* of the last rejection */

	PstPartition partitions[PST_PARTITIONS];
} PstDatabase;

typedef struct PstShared
{
	uint32		nslots;			/* immutable */
	PstDatabase databases[PST_MAX_DATABASES];
	PstSlot		slots[FLEXIBLE_ARRAY_MEMBER];
} PstShared;

extern PstShared *pst_shared;
extern dsa_area * pst_area;
extern dsa_pointer pst_allocate(Size size);


static inline bool
pst_is_flusher_ready(PstDatabase *db)
{
	return pg_atomic_read_u32(&db->flusher) == PST_FLUSHER_READY;
}

/* A clock that nobody puts forward or back */
static inline uint64
pst_clock_ms(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return (uint64) INSTR_TIME_GET_MICROSEC(now) / 1000;
}

/* It is stopped, or runs code that does not check for interrupts */
static inline bool
pst_is_flusher_silent(PstDatabase *db)
{
	uint64		heartbeat = pg_atomic_read_u64(&db->heartbeat);

	return (int64) (pst_clock_ms() - heartbeat) > PST_SILENT_MS;
}

/* May something be handed over, and be waited for? */
static inline bool
pst_is_flusher_alive(PstDatabase *db)
{
	return pst_is_flusher_ready(db) && !pst_is_flusher_silent(db);
}

/* ---- pending.c ---- */

/* An entry that a transaction has reserved, or that the flusher folds */
typedef struct PstHold
{
	PstPartition *partition;
	PstEntry   *entry;
	PstKey		key;
	int64		n[PST_NCOUNTERS];
	TimestampTz since;

	/* The flusher's, and a claim's */
	bool		in_air;			/* has left pending, not landed */
	PstTries	tries;
} PstHold;

/* What a cycle of the flusher has still to look at, in each partition: lists of entries */
typedef struct PstCycle
{
	uint32		todo[PST_PARTITIONS];
	uint32		others[PST_PARTITIONS]; /* of another table: when the first is
										 * done */
	bool		claimed;		/* a correction had something in the air when
								 * it began */
	uint32		claims_begun;
} PstCycle;

/* The sums of now, for the view of a database's state */
typedef struct PstLedger
{
	int64		accepted;
	int64		flushed;
	int64		rejected;
	int64		pending;
	int64		entries;
	int64		max_entries;
	TimestampTz oldest;			/* pending count; 0 where there is none */
} PstLedger;

extern void pst_init_partitions(PstDatabase *db, int tranche);
extern void pst_clear_partitions(PstDatabase *db);
extern bool pst_reserve(PstDatabase *db, const PstTables *tables, const PstDeltas *deltas, PstOwnFold *why);
extern void pst_end_reserved(bool publish);
extern void pst_lock_partitions(PstDatabase *db, LWLockMode mode);
extern void pst_unlock_partitions(PstDatabase *db);
extern void pst_list_due(PstDatabase *db);
extern void pst_begin_cycle(PstDatabase *db, PstCycle *cycle);
extern int	pst_gather(PstDatabase *db, PstCycle *cycle, PstHold *holds, int max);
extern void pst_list_again(PstHold *holds, int n);
extern void pst_take_off(PstHold *holds, int n, FullTransactionId xid);
extern void pst_land(PstHold *holds, int n);
extern void pst_turn_back(PstHold *hold, PstTries more);
extern bool pst_reject(PstDatabase *db, PstHold *hold, PstTries left, const char *reason);
extern bool pst_was_claimed(PstDatabase *db, const PstCycle *cycle);
extern TransactionId pst_claim(PstDatabase *db, const PstTables *tables, Datum id, PstHold *hold);
extern void pst_land_claim(PstDatabase *db, PstHold *hold);
extern void pst_return_claim(PstDatabase *db, PstHold *hold);
extern void pst_tidy_partitions(PstDatabase *db, bool release);
extern bool pst_is_empty(PstDatabase *db);
extern void pst_read_ledger(PstDatabase *db, PstLedger *ledger);
extern void pst_add_grouped(PstDatabase *db, int64 n);
extern bool pst_read_pending(PstDatabase *db, const PstTables *tables, Snapshot snapshot, PstDeltas *deltas);
extern bool pst_read_one_pending(PstDatabase *db, const PstTables *tables, Datum id, Snapshot snapshot, int64 *n);

/* ---- correct.c ---- */

extern void pst_add_unseen_claims(const PstKey *key, Snapshot snapshot, int64 *n);

/* ---- status.c ---- */

extern void pst_count_own_fold(PstDatabase *db, PstOwnFold why, int64 n);

#endif							/* PST_SHARED_H */
