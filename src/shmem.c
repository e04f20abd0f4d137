/*
 * shmem.c
 *		Shared memory, without preloading.
 *
 * An anchor is found by every backend: by name from PostgreSQL 17 on
 * (dsm_registry.c), before that in the slack of the main segment, as pg_prewarm
 * does it (ipci.c).  It holds the handle of a DSA area, and in that area lie a
 * slot for each backend and an entry for each database.  Where any of it can't be
 * had, pst_attach() says so and callers fold their own deltas.
 *
 * The anchor carries PST_LAYOUT: a library of another layout, installed under a
 * running server, leaves it alone and says that a restart is due.
 *
 * shared.h has the rules of the locks.  PstAnchor.lock guards the creation of the
 * area, and who gets an entry of PstShared.databases.
 */
#include "prompt_stats.h"

#include "shared.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/dsa.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

/* Of all that is shared: to be changed with it */
#ifndef PST_LAYOUT
#define PST_LAYOUT 8
#endif

/* After /dev/shm was found full */
#define RETRY_US	INT64CONST(1000000)

typedef struct PstAnchor
{
	/* Immutable once the anchor is initialized */
	int			layout;			/* stays the first */
	int			lock_tranche;
	int			area_tranche;
	int			partition_tranche;

	LWLock		lock;

	/* Under lock */
	dsa_handle	area;
	dsa_pointer shared;
} PstAnchor;

static PstAnchor *anchor = NULL;

PstShared  *pst_shared = NULL;
dsa_area   *pst_area = NULL;

static bool attach_failed = false;

static void
init_anchor(void *ptr)
{
	PstAnchor  *new = ptr;

	new->layout = PST_LAYOUT;
	new->lock_tranche = LWLockNewTrancheId();
	new->area_tranche = LWLockNewTrancheId();
	new->partition_tranche = LWLockNewTrancheId();
	LWLockInitialize(&new->lock, new->lock_tranche);
	new->shared = InvalidDsaPointer;
}

static void
init_statistics(PstDatabase *db)
{
	for (int i = 0; i < PST_NOWN; i++)
		pg_atomic_init_u64(&db->own[i], 0);
	pg_atomic_init_u64(&db->groups, 0);
	pg_atomic_init_u64(&db->grouped, 0);
	pg_atomic_init_u64(&db->largest_group, 0);
	pg_atomic_init_u64(&db->flushes, 0);
	db->rejected_at = 0;
	db->rejected_stats = InvalidOid;
	db->reason[0] = '\0';
	db->since = GetCurrentTimestamp();
}

static void
init_shared(PstShared *shared)
{
	shared->nslots = ProcGlobal->allProcCount;
	for (int i = 0; i < PST_MAX_DATABASES; i++)
	{
		PstDatabase *db = &shared->databases[i];

		db->oid = InvalidOid;
		pg_atomic_init_u32(&db->head, PST_NONE);
		pg_atomic_init_u32(&db->soloist, 0);
		pg_atomic_init_u32(&db->flusher, PST_NO_FLUSHER);
		pg_atomic_init_u32(&db->flusher_proc, PST_NONE);
		pg_atomic_init_u32(&db->flusher_idle, 0);
		pg_atomic_init_u64(&db->started_at, 0);
		pg_atomic_init_u64(&db->company_at, 0);
		pg_atomic_init_u32(&db->crowded, 0);
		pg_atomic_init_u32(&db->stats, InvalidOid);
		pg_atomic_init_u32(&db->folding, InvalidOid);
		pg_atomic_init_u64(&db->heartbeat, 0);
		pg_atomic_init_u64(&db->silence_told, 0);
		pg_atomic_init_u64(&db->flushes_wanted, 0);
		pg_atomic_init_u64(&db->flushes_done, 0);
		pg_atomic_init_u64(&db->flushes_failed, 0);
		ConditionVariableInit(&db->flushed);
		init_statistics(db);
		pst_init_partitions(db, anchor->partition_tranche);
	}
	for (uint32 i = 0; i < shared->nslots; i++)
		pg_atomic_init_u32(&shared->slots[i].state, PST_FREE);
}

/* The first to come makes the area, and pins it: it outlives every backend */
static void
create_area(void)
{
	dsa_area   *area = dsa_create(anchor->area_tranche);
	dsa_pointer shared;

	shared = dsa_allocate_extended(area,
								   offsetof(PstShared, slots) +
								   ProcGlobal->allProcCount * sizeof(PstSlot),
								   DSA_ALLOC_HUGE | DSA_ALLOC_ZERO);
	init_shared(dsa_get_address(area, shared));
	dsa_pin(area);
	anchor->shared = shared;
	anchor->area = dsa_get_handle(area);
	pst_area = area;
}

static void
attach_area(void)
{
	MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);

	LWLockAcquire(&anchor->lock, LW_EXCLUSIVE);
	if (!DsaPointerIsValid(anchor->shared))
		create_area();
	else
		pst_area = dsa_attach(anchor->area);
	dsa_pin_mapping(pst_area);
	LWLockRelease(&anchor->lock);
	MemoryContextSwitchTo(caller);
	pst_shared = dsa_get_address(pst_area, anchor->shared);
}

static void
check_layout(void)
{
	if (anchor->layout != PST_LAYOUT)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("shared memory was laid out by another version of prompt_stats")));
}

static void
attach(void *arg)
{
	anchor = pst_find_anchor("prompt_stats", sizeof(PstAnchor), init_anchor);
	check_layout();
	LWLockRegisterTranche(anchor->lock_tranche, "prompt_stats");
	LWLockRegisterTranche(anchor->area_tranche, "prompt_stats");
	LWLockRegisterTranche(anchor->partition_tranche, "prompt_stats");
	(void) pst_wait_event();
	attach_area();
}

/*
 * Runs what may fail for want of shared memory, and holds nothing of it where it does: then
 * returns false, and the error's message if that is asked for.  The caller holds no lock.
 */
static bool
attempt(void (*work) (void *arg), void *arg, char **message)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner caller = CurrentResourceOwner;
	ResourceOwner owner = ResourceOwnerCreate(NULL, "prompt_stats");
	volatile bool done = false;

	CurrentResourceOwner = owner;
	PG_TRY();
	{
		work(arg);
		done = true;
	}
	PG_CATCH();
	{
		/* errfinish() has forgotten what the locks hold off */
		LWLockReleaseAll();
		MemoryContextSwitchTo(context);
	}
	PG_END_TRY();
	CurrentResourceOwner = caller;
	ResourceOwnerRelease(owner, RESOURCE_RELEASE_BEFORE_LOCKS, false, false);
	ResourceOwnerDelete(owner);
	if (!done && message != NULL)
		*message = CopyErrorData()->message;
	if (!done)
		FlushErrorState();
	return done;
}

/* Counting goes on without */
static void
try_to_attach(void)
{
	char	   *message;

	if (attempt(attach, NULL, &message))
		return;
	pst_shared = NULL;
	attach_failed = true;
	ereport(LOG,
			(errmsg("prompt_stats could not attach to shared memory: %s", message),
			 errdetail("This session folds its own counts."),
			 errhint("Restart the server.")));
}

/*
 * Called at the first count of a session, never while committing.  False where
 * there is no shared memory to be had.
 */
bool
pst_attach(void)
{
	if (pst_shared == NULL && !attach_failed && IsUnderPostmaster)
		try_to_attach();
	return pst_shared != NULL;
}

/* Another version of the library has laid out what there is */
bool
pst_is_other_layout(void)
{
	return anchor != NULL && anchor->layout != PST_LAYOUT;
}

typedef struct Allocation
{
	Size		size;
	dsa_pointer result;
} Allocation;

static void
allocate(void *arg)
{
	Allocation *allocation = arg;

	allocation->result = dsa_allocate_extended(pst_area, allocation->size,
											   DSA_ALLOC_NO_OOM | DSA_ALLOC_HUGE);
}

/*
 * Memory of the area; invalid where there is none to be had, for whatever reason:
 * DSA_ALLOC_NO_OOM does not cover a full /dev/shm (dsm_impl.c).  That is not tried again for a
 * while: from 17 on each failure leaves a few bytes in the backend (dsa.c: make_new_segment has
 * no resource owner).  The caller holds no lock.
 */
dsa_pointer
pst_allocate(Size size)
{
	static TimestampTz failed = 0;
	Allocation	allocation = {size, InvalidDsaPointer};

	if (failed != 0 && llabs(GetCurrentTimestamp() - failed) < RETRY_US)
		return InvalidDsaPointer;
	failed = attempt(allocate, &allocation, NULL) ? 0 : GetCurrentTimestamp();
	return allocation.result;
}

static bool
is_dropped(Oid database)
{
	return !SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(database));
}

/* What nobody will fold any more, for its database is gone */
static void
drain(PstDatabase *db)
{
	uint32		number = pg_atomic_exchange_u32(&db->head, PST_NONE);

	while (number != PST_NONE)
	{
		uint32		next = pst_shared->slots[number].next;

		pst_free_slot(&pst_shared->slots[number]);
		number = next;
	}
	pst_clear_partitions(db);
	init_statistics(db);
}

/* An unused entry, or that of a database that is gone; reads the catalog */
static PstDatabase *
find_spare(Oid *oid)
{
	for (int i = 0; i < PST_MAX_DATABASES; i++)
	{
		PstDatabase *db = &pst_shared->databases[i];

		*oid = db->oid;
		if (!OidIsValid(*oid) ||
			(pg_atomic_read_u32(&db->flusher) == PST_NO_FLUSHER && is_dropped(*oid)))
			return db;
	}
	return NULL;
}

PstDatabase *
pst_entry_of(Oid oid)
{
	for (int i = 0; i < PST_MAX_DATABASES; i++)
		if (pst_shared->databases[i].oid == oid)
			return &pst_shared->databases[i];
	return NULL;
}

/*
 * The entry of our database; NULL where there is no shared memory or no entry to be
 * had, and on a standby, where nobody counts.
 */
PstDatabase *
pst_find_database(void)
{
	static PstDatabase *mine = NULL;
	PstDatabase *spare;
	Oid			oid;

	if (mine != NULL)
		return mine;
	if (RecoveryInProgress() || !pst_attach())
		return NULL;
	mine = pst_entry_of(MyDatabaseId);
	if (mine != NULL)
		return mine;

	spare = find_spare(&oid);
	LWLockAcquire(&anchor->lock, LW_EXCLUSIVE);
	mine = pst_entry_of(MyDatabaseId);
	if (mine == NULL && spare != NULL && spare->oid == oid)
	{
		drain(spare);
		spare->oid = MyDatabaseId;
		mine = spare;
	}
	LWLockRelease(&anchor->lock);
	return mine;
}
