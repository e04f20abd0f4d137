/*
 * group.h
 *		What waiting transactions and the flusher share; see group.c.
 */
#ifndef PST_GROUP_H
#define PST_GROUP_H

#include "port/atomics.h"
#include "utils/dsa.h"

#define PST_NO_SLOT			PG_UINT32_MAX
#define PST_MAX_DATABASES	64

/* Of PstSlot.state */
typedef enum PstSlotState
{
	PST_FREE,					/* not linked; its backend may use it */
	PST_QUEUED,					/* linked; its backend waits */
	PST_WITHDRAWN,				/* linked; its backend has gone on */
	PST_TAKEN,					/* by the flusher, which will tell the outcome */
	PST_FOLDED,					/* committed, durable and visible */
	PST_RETURNED				/* not folded: its backend folds it itself */
} PstSlotState;

/* Of PstDatabase.flusher */
typedef enum PstFlusherState
{
	PST_NO_FLUSHER,
	PST_FLUSHER_STARTING,
	PST_FLUSHER_READY
} PstFlusherState;

/* Room for two deltas with uuids; more go to the DSA area */
#define PST_INLINE_BYTES 96

/* A transaction that counted more than this folds its own: others need not wait for it */
#define PST_UNIT_BYTES (64 * 1024)

/* A backend's place in a queue: one transaction's deltas, a unit */
typedef struct PstSlot
{
	pg_atomic_uint32 state;

	/* Written by whoever links the slot, before that; read by the flusher */
	uint32		next;			/* in the queue */
	uint32		ndeltas;
	int			kind;			/* PstIdKind of the deltas */
	Oid			schema;			/* of the extension */
	Oid			stats;			/* the table that the backend means */
	int			sync_commit;	/* the backend's synchronous_commit */
	int			orphan;			/* takes a fold back: how often yet to be tried */

	/* Of the slot's backend alone */
	dsa_pointer big;			/* the deltas, where they are not inline */

	char		data[PST_INLINE_BYTES];
} PstSlot;

/* One database's queue and its flusher */
typedef struct PstDatabase
{
	Oid			oid;			/* under PstAnchor.lock; InvalidOid: unused */

	/* Atomic */
	pg_atomic_uint32 head;		/* of the queue, the last that came */
	pg_atomic_uint32 soloist;	/* whoever folds, another number each time; or 0 */
	pg_atomic_uint32 flusher;	/* PstFlusherState */
	pg_atomic_uint32 flusher_proc;	/* its number in ProcGlobal->allProcs */
	pg_atomic_uint32 flusher_idle;	/* 1: it sleeps, wake it */
	pg_atomic_uint64 started_at;	/* when a flusher was last started */
} PstDatabase;

typedef struct PstShared
{
	uint32		nslots;			/* immutable */
	PstDatabase databases[PST_MAX_DATABASES];
	PstSlot		slots[FLEXIBLE_ARRAY_MEMBER];
} PstShared;

extern PstShared *pst_shared;
extern dsa_area *pst_area;

#endif							/* PST_GROUP_H */
